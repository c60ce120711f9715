// SPDX-License-Identifier: GPL-2.0-only
/* Takes packets of several buffers (Linux 5.18). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp.frags")
int drop_fragments_too(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
