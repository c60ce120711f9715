// SPDX-License-Identifier: GPL-2.0-only
/* What is traced in a measurement: the program of least cost that has a verdict. */
#include "../../bpf/vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int bench_target(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
