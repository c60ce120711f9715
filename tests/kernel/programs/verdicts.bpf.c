// SPDX-License-Identifier: GPL-2.0-only
/* One program for each thing that an XDP program can decide. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define ETH_HLEN 14

SEC("xdp")
int decide_aborted(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

SEC("xdp")
int decide_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int decide_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int decide_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int decide_redirect(struct xdp_md *ctx)
{
	return bpf_redirect(1, 0);
}

SEC("xdp")
int decide_seventy_seven(struct xdp_md *ctx)
{
	return 77;
}

SEC("xdp")
int decide_minus_one(struct xdp_md *ctx)
{
	return -1;
}

/* The packet says what becomes of it: its first byte after the Ethernet header. */
SEC("xdp")
int decide_by_first_payload_byte(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	__u8 *end = (__u8 *)(long)ctx->data_end;

	if (data + ETH_HLEN + 1 > end)
		return XDP_ABORTED;
	if (data[ETH_HLEN] == XDP_REDIRECT)
		return bpf_redirect(1, 0);
	return data[ETH_HLEN];
}

/* Leaves with four bytes less than it came with. */
SEC("xdp")
int cut_four_bytes(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, 4) ? XDP_ABORTED : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
