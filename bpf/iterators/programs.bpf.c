// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lists the XDP programs of the whole host and their extensions, with facts that bpf(2)
 * does not report: the number of references on each, the attach type it was loaded for, and
 * the target of an extension that is not attached yet.
 */
#include "vmlinux.h"
#include "xdpscope.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Puts the record's layout into this object's BTF, where the agent reads it. */
const struct program_record *program_record_layout;

static __always_inline bool is_xdp(enum bpf_prog_type type)
{
	return type == bpf_core_enum_value(enum bpf_prog_type, BPF_PROG_TYPE_XDP);
}

/* For an extension: the type of its target, which has the same context. */
static __always_inline bool is_at_egress(struct bpf_prog *prog, bool extension)
{
	enum bpf_attach_type type = prog->expected_attach_type;

	if (extension)
		type = prog->aux->saved_dst_attach_type;
	return type == bpf_core_enum_value(enum bpf_attach_type, BPF_XDP_DEVMAP);
}

static __always_inline bool is_extension_of_xdp(struct bpf_prog *prog)
{
	return prog->type == bpf_core_enum_value(enum bpf_prog_type, BPF_PROG_TYPE_EXT) &&
	       bpf_core_field_exists(prog->aux->saved_dst_prog_type) &&
	       is_xdp(prog->aux->saved_dst_prog_type);
}

/*
 * The kernel forgets the target when it attaches the extension (bpf_tracing_prog_attach).
 * From then on the link has it. If the kernel refuses the attachment, it keeps the target.
 */
static __always_inline void tell_target(struct program_record *record, struct bpf_prog *extension)
{
	struct bpf_prog *target = extension->aux->dst_prog;

	record->function = extension->aux->attach_btf_id;
	/* The name is in the target's BTF. It may be gone, where the extension is not attached. */
	bpf_probe_read_kernel_str(record->replaced, sizeof(record->replaced),
				  extension->aux->attach_func_name);
	if (target)
		record->target = target->aux->id;
}

static __always_inline bool is_bound(struct bpf_prog_aux *aux)
{
	if (aux->offload_requested)
		return true;
	return bpf_core_field_exists(aux->dev_bound) && aux->dev_bound;
}

SEC("iter/bpf_prog")
int programs(struct bpf_iter__bpf_prog *ctx)
{
	struct bpf_prog *prog = ctx->prog;
	struct program_record record = {};

	if (!prog)
		return 0;
	record.extension = is_extension_of_xdp(prog);
	if (!record.extension && !is_xdp(prog->type))
		return 0;
	/* A program whose device is gone cannot be read: its info is ENODEV. */
	if (is_bound(prog->aux) && !prog->aux->offload)
		return 0;
	record.id = prog->aux->id;
	record.offloaded = prog->aux->offload_requested;
	record.attach_type = prog->expected_attach_type;
	record.at_egress = is_at_egress(prog, record.extension);
	if (record.extension)
		tell_target(&record, prog);
	bpf_probe_read_kernel(record.tag, sizeof(record.tag), prog->tag);
	bpf_probe_read_kernel(record.name, sizeof(record.name), prog->aux->name);
	record.references = prog->aux->refcnt.counter;
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
