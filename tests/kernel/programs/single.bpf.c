// SPDX-License-Identifier: GPL-2.0-only
/* As little as can be loaded: for tests that load a thousand times. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int come_and_go(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
