// SPDX-License-Identifier: GPL-2.0-only
/*
 * A program of our own that is never attached to an interface: the templates are
 * loaded against it, and trying to trace it tells whether this kernel can be asked
 * to trace anybody's.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdpscope_anchor(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
