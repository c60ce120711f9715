// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lists the XDP programs of the whole host, and the extensions of them, with what bpf(2) does not tell: how many
 * references are held on each, and which attach type it was loaded for.
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

/* Of an extension: what it extends, which the kernel holds to the same context. */
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
	record.id = prog->aux->id;
	record.attach_type = prog->expected_attach_type;
	record.at_egress = is_at_egress(prog, record.extension);
	record.references = prog->aux->refcnt.counter;
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
