// SPDX-License-Identifier: GPL-2.0-only
/* Replace functions of stages.bpf.c. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("freplace")
int replace_stage(struct xdp_md *ctx)
{
	return 0;
}

SEC("freplace")
int replace_limit(struct xdp_md *ctx, int most)
{
	return most;
}

char LICENSE[] SEC("license") = "GPL";
