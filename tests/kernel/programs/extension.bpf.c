// SPDX-License-Identifier: GPL-2.0-only
/* Takes the place of another program's entry function. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("freplace")
int drop_instead(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
