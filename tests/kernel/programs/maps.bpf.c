// SPDX-License-Identifier: GPL-2.0-only
/*
 * Programs that lead to others over maps. A packet says where it is to go by the last but one
 * byte of its source address, and what becomes of it there by the last.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define WHERE 10
#define WHAT  11

/* include/uapi/linux/bpf.h: struct bpf_devmap_val and struct bpf_cpumap_val */
struct with_program {
	__u32 first; /* ifindex, or length of a queue */
	int program;
};

#define BPF_F_WRONLY (1U << 4)

#define DEVICES(name, kind, flags)                  \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_##kind);  \
		__uint(map_flags, flags);           \
		__uint(max_entries, 200);           \
		__type(key, __u32);                 \
		__type(value, struct with_program); \
	} name SEC(".maps")

DEVICES(devices, DEVMAP, 0);
/* Closed to whoever would read it with bpf(2). */
DEVICES(devices_by_hash, DEVMAP_HASH, BPF_F_WRONLY);

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct with_program);
} cpus SEC(".maps");

#define PROG_ARRAY(name)                               \
	struct {                                       \
		__uint(type, BPF_MAP_TYPE_PROG_ARRAY); \
		__uint(max_entries, 200);              \
		__type(key, __u32);                    \
		__type(value, __u32);                  \
	} name SEC(".maps")

PROG_ARRAY(near);
PROG_ARRAY(far);

static __always_inline int byte_of(struct xdp_md *ctx, int at)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	return data + 14 > end ? 0 : data[at];
}

SEC("xdp")
int call_near(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &near, byte_of(ctx, WHERE));
	return XDP_ABORTED;
}

SEC("xdp")
int leaf_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int leaf_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int leaf_call_far(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &far, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int leaf_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

SEC("xdp")
int to_device(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices, byte_of(ctx, WHERE), 0);
}

SEC("xdp")
int to_device_by_hash(struct xdp_md *ctx)
{
	return bpf_redirect_map(&devices_by_hash, byte_of(ctx, WHERE), 0);
}

SEC("xdp")
int to_cpu(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cpus, 0, 0);
}

SEC("xdp/devmap")
int where_it_leaves(struct xdp_md *ctx)
{
	return byte_of(ctx, WHAT);
}

/* Writes to its packets, so that their flows are read at the entry. */
SEC("xdp/devmap")
int write_where_it_leaves(struct xdp_md *ctx)
{
	volatile __u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	if (data + 14 > end)
		return XDP_ABORTED;
	data[0] = data[0];
	return data[WHAT];
}

SEC("xdp/cpumap")
int on_the_cpu(struct xdp_md *ctx)
{
	return byte_of(ctx, WHAT);
}

char LICENSE[] SEC("license") = "GPL";
