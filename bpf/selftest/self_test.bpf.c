// SPDX-License-Identifier: GPL-2.0-only
/*
 * The self-test program. It is never attached to an interface. The templates are loaded
 * against it, and the agent traces it to find out whether this kernel allows tracing.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdpscope_self_test(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
