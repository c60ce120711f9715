// SPDX-License-Identifier: GPL-2.0-only
/* Asks functions of its own what to do: their results are no verdicts. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int stage(struct xdp_md *ctx)
{
	volatile int stop = 1;

	return ctx ? stop : 1;
}

__attribute__((noinline)) int limit(struct xdp_md *ctx, int most)
{
	volatile int least = 2;

	return ctx && most > least ? most : 0;
}

SEC("xdp")
int staged(struct xdp_md *ctx)
{
	int stop = stage(ctx), most = limit(ctx, 4);

	/* Either of them, replaced or not, has its say. */
	return stop <= 1 && most == 4 ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
