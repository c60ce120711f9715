// SPDX-License-Identifier: GPL-2.0-only
/*
 * An XDP program, and tracers that keep what a packet filter returns for each packet: 0 if its quick test
 * ends them.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "packet_filter.h"

#define FILTERS 64
#define NUMBER	0x5107 /* the filter's number, put here by user space */

struct results {
	__u32 of[FILTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct results);
} results SEC(".maps");

SEC("xdp")
int filtered(struct xdp_md *ctx)
{
	return XDP_PASS;
}

static __always_inline int keep(__u32 result)
{
	__u32 key = 0, number;
	struct results *found = bpf_map_lookup_elem(&results, &key);

	asm volatile("%0 = 0x5107" : "=r"(number));
	if (found && number < FILTERS)
		found->of[number] = result;
	return 0;
}

static __always_inline __u64 linear(struct xdp_buff *xdp)
{
	return (__u64)xdp->data_end - (__u64)xdp->data;
}

SEC("fentry")
int filter_ethernet(__u64 *ctx)
{
	struct xdp_buff *xdp = (void *)ctx[0];

	keep(0);
	quick_filter(xdp->data, xdp->data_end);
	return keep(packet_filter(FILTER_ETHERNET, xdp->data, linear(xdp), linear(xdp)));
}

SEC("fentry")
int filter_raw_ip(__u64 *ctx)
{
	struct xdp_buff *xdp = (void *)ctx[0];

	keep(0);
	quick_filter(xdp->data, xdp->data_end);
	return keep(packet_filter(FILTER_RAW_IP, xdp->data, linear(xdp), linear(xdp)));
}

char LICENSE[] SEC("license") = "GPL";
