// SPDX-License-Identifier: GPL-2.0-only
/* Named as libxdp names its dispatcher: its entry may yet be replaced. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int xdp_dispatcher(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
