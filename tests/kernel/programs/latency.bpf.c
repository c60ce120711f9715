// SPDX-License-Identifier: GPL-2.0-only
/* Programs that take a known time: the first byte after the Ethernet header, in 2^16 ns. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define ETH_HLEN 14

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} leaves SEC(".maps");

/* A global function, which the verifier checks once: a long loop would take it minutes. */
__attribute__((noinline)) int spin_until(__u64 end)
{
	for (int i = 0; i < 100; i++) {
		if (bpf_ktime_get_ns() >= end)
			return 1;
	}
	return 0;
}

static __always_inline int spin_for(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	__u64 until;

	if (data + ETH_HLEN + 1 > end)
		return XDP_ABORTED;
	until = bpf_ktime_get_ns() + ((__u64)data[ETH_HLEN] << 16);
	for (int i = 0; i < 100; i++) {
		if (spin_until(until))
			break;
	}
	return XDP_DROP;
}

SEC("xdp")
int spin(struct xdp_md *ctx)
{
	return spin_for(ctx);
}

SEC("xdp")
int spin_in_tail_call(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &leaves, 0);
	return XDP_ABORTED;
}

/* Like libxdp's dispatcher, but slow itself. */
__attribute__((noinline)) int prog0(struct xdp_md *ctx)
{
	volatile int verdict = XDP_PASS;

	return ctx ? verdict : XDP_ABORTED;
}

SEC("xdp")
int xdp_dispatcher(struct xdp_md *ctx)
{
	int verdict = prog0(ctx);

	spin_for(ctx);
	return verdict;
}

char LICENSE[] SEC("license") = "GPL";
