// SPDX-License-Identifier: GPL-2.0-only
/*
 * Links of a chain for libxdp, which puts them in the order of their priorities and calls the
 * next one after XDP_PASS. The last byte of a packet's source address is the verdict that one
 * of them gives.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define VERDICT 11

/* As libxdp's headers have it. */
#define LINK(function, at)            \
	struct {                      \
		__uint(priority, at); \
		__uint(XDP_PASS, 1);  \
	} _##function SEC(".xdp_run_config")

LINK(pass_on, 10);
LINK(drop_some, 20);
LINK(send_back_some, 30);

static __always_inline int only(struct xdp_md *ctx, int verdict)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	return data + 14 <= end && data[VERDICT] == verdict ? verdict : XDP_PASS;
}

SEC("xdp")
int pass_on(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int drop_some(struct xdp_md *ctx)
{
	return only(ctx, XDP_DROP);
}

SEC("xdp")
int send_back_some(struct xdp_md *ctx)
{
	return only(ctx, XDP_TX);
}

char LICENSE[] SEC("license") = "GPL";
