// SPDX-License-Identifier: GPL-2.0-only
/* A packet filter and nothing else: what one costs in an entry tracer. */
#include "../../bpf/vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "../../bpf/common/packet_filter.h"

__u64 matched;

SEC("fentry")
int filter_entry(__u64 *ctx)
{
	struct xdp_buff *xdp = (void *)ctx[0];
	__u64 linear = (__u64)xdp->data_end - (__u64)xdp->data;

	if (packet_filter(FILTER_ETHERNET, xdp->data, linear, linear))
		matched++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
