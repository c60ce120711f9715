// SPDX-License-Identifier: GPL-2.0-only
/* What is traced in measurements: programs of the least cost that serve the purpose. */
#include "../../bpf/vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int bench_target(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* Which of `flows` the next run's packet is of: the one after `last`. */
struct {
	__u32 last, flows;
} turns = { .flows = 1 };

static __always_inline int next_flow(struct xdp_md *ctx, int low_bytes_of_source)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 *source = data + low_bytes_of_source, next;

	if ((void *)(source + 1) <= end) {
		next = turns.last + 1;
		if (next == turns.flows)
			next = 0;
		turns.last = *source = next;
	}
	return XDP_PASS;
}

/* A test run's packet stays as the run before has left it. */
SEC("xdp")
int bench_flows4(struct xdp_md *ctx)
{
	return next_flow(ctx, 26);
}

SEC("xdp")
int bench_flows6(struct xdp_md *ctx)
{
	return next_flow(ctx, 34);
}

char LICENSE[] SEC("license") = "GPL";
