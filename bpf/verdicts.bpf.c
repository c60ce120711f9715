// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts, at the exit of one XDP program, what it decided: packets and bytes by
 * device and verdict.
 *
 * The fexit programs are templates. One is loaded once, against the anchor program;
 * for each target the agent loads a copy of its instructions in which `counts` is
 * replaced by a map of that target alone and TARGET by its number.
 */
#include "vmlinux.h"
#include "xdpscope.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct target_counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, DEVICES_SPILLED);
	__type(key, struct spill_key);
	__type(value, struct device_counts);
} spilled SEC(".maps");

/*
 * Advances whenever a device appears in a network namespace. As long as it stands
 * still, an address of a net_device means the device that it meant before: to be
 * another one, or one in another namespace, it would have to appear first.
 */
__u64 epoch;

/* The key of the only element of `counts`: cheaper here than on the stack. */
__u32 only;

static __always_inline __u32 target_number(void)
{
	__u32 number;

	asm volatile("%0 = %1" : "=r"(number) : "i"(TARGET));
	return number;
}

static __always_inline __u64 identity_of(struct net_device *device)
{
	return (__u64)device->nd_net.net->ns.inum << 32 | (__u32)device->ifindex;
}

/* The whole packet, fragments of a multi-buffer one included. */
static __always_inline __u64 length_of(struct xdp_buff *xdp)
{
	/* Kernels without the helper have no multi-buffer packets. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_xdp_get_buff_len))
		return bpf_xdp_get_buff_len((struct xdp_md *)xdp);
	return (__u64)xdp->data_end - (__u64)xdp->data;
}

static __always_inline void add(struct tally *tally, __u64 length)
{
	tally->packets++;
	tally->bytes += length;
}

/* Binds a record, of this CPU alone, to a device. */
static __always_inline void bind_record(struct device_counts *known, struct net_device *device,
					__u64 identity)
{
	bpf_probe_read_kernel(known->name, sizeof(known->name), device->name);
	known->identity = identity;
}

static __always_inline struct device_counts *spilled_counts(struct net_device *device,
							    __u64 identity)
{
	struct spill_key key = { .identity = identity, .target = target_number() };
	struct device_counts *known, fresh = {};

	known = bpf_map_lookup_elem(&spilled, &key);
	if (!known) {
		/* Another CPU may have been first: whoever it was, look again. */
		bpf_map_update_elem(&spilled, &key, &fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&spilled, &key);
	}
	if (known && known->identity == 0)
		bind_record(known, device, identity);
	return known;
}

/* Any device but the one that the target's first place is known to stand for. */
static __noinline int count_other(struct xdp_buff *xdp, struct target_counts *target,
				  enum verdict verdict, __u64 length)
{
	struct net_device *device = xdp->rxq->dev;
	__u64 identity = identity_of(device);
	struct device_counts *known;

	if (verdict >= VERDICTS)
		return 0;
	for (int i = 0; i < DEVICES_INLINE; i++) {
		known = &target->devices[i];
		if (known->identity == 0)
			bind_record(known, device, identity);
		if (known->identity == identity) {
			known->device = (__u64)device;
			known->epoch = epoch;
			add(&known->verdicts[verdict], length);
			return 0;
		}
	}

	known = spilled_counts(device, identity);
	add(known ? &known->verdicts[verdict] : &target->unplaced[verdict], length);
	return 0;
}

static __always_inline int count(__u64 *ctx, bool epoch_counts)
{
	__u64 length = length_of((struct xdp_buff *)ctx[0]);
	struct target_counts *target = bpf_map_lookup_elem(&counts, &only);
	struct device_counts *first;
	struct net_device *device;
	struct xdp_buff *xdp;
	enum verdict verdict;
	bool same;

	if (!target)
		return 0;
	/* Read again rather than kept across the calls: one register less to save. */
	xdp = (struct xdp_buff *)*(volatile __u64 *)&ctx[0];
	verdict = ctx[1];
	if (verdict > VERDICT_REDIRECT)
		verdict = VERDICT_UNKNOWN;
	first = &target->devices[0];
	device = xdp->rxq->dev;
	if (epoch_counts)
		same = first->device == (__u64)device && first->epoch == epoch;
	else
		same = first->identity == identity_of(device);
	if (__builtin_expect(!same, false))
		return count_other(xdp, target, verdict, length);
	add(&first->verdicts[verdict], length);
	return 0;
}

/* With `device_appears` attached: recognises a device by its address. */
SEC("fexit")
int count_by_epoch(__u64 *ctx)
{
	return count(ctx, true);
}

/* Without: reads its identity for each packet, about 20 instructions more. */
SEC("fexit")
int count_by_identity(__u64 *ctx)
{
	return count(ctx, false);
}

/* Called for every device that is registered, or moved to another namespace. */
SEC("fentry/raw_notifier_call_chain")
int BPF_PROG(device_appears, void *chain, unsigned long event)
{
	if (event == bpf_core_enum_value(enum netdev_cmd, NETDEV_REGISTER))
		__sync_fetch_and_add(&epoch, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
