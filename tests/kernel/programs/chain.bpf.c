// SPDX-License-Identifier: GPL-2.0-only
/* Like libxdp's dispatcher of several components: each replaces one of its functions. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int prog3(struct xdp_md *ctx)
{
	/* What the compiler cannot see through is called. */
	volatile int verdict = XDP_PASS;

	return ctx ? verdict : XDP_ABORTED;
}

SEC("xdp")
int xdp_dispatcher(struct xdp_md *ctx)
{
	return prog3(ctx);
}

char LICENSE[] SEC("license") = "GPL";
