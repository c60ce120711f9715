// SPDX-License-Identifier: GPL-2.0-only
/* What trace and capture have to show: drops, rewrites, encapsulation and decapsulation. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

enum {
	ETH = 14,
	IP = 20,
	OUTER_SOURCE = 0x0100000a, /* 10.0.0.1, in network order */
	OUTER_DESTINATION = 0x0200000a, /* 10.0.0.2 */
	PROTOCOL_IPIP = 4,
};

struct ip {
	__u8 version_length, tos;
	__u16 length, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 source, destination;
};

/* The type of service says what becomes of the packet. */
enum what {
	KEEP,
	DROP,
	REWRITE,
	ENCAPSULATE,
	DECAPSULATE,
	ABORT
};

static __always_inline int swap(__u16 number)
{
	return (__u16)(number << 8 | number >> 8);
}

static __always_inline int encapsulate(struct xdp_md *ctx, __u16 length)
{
	__u8 *data, *end;
	struct ip *outer;
	__u8 ethernet[ETH];

	data = (__u8 *)(long)ctx->data;
	if (data + ETH > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(ethernet, data, ETH);
	if (bpf_xdp_adjust_head(ctx, -IP))
		return XDP_ABORTED;
	data = (__u8 *)(long)ctx->data;
	end = (__u8 *)(long)ctx->data_end;
	if (data + ETH + IP > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, ethernet, ETH);
	outer = (struct ip *)(data + ETH);
	__builtin_memset(outer, 0, sizeof(*outer));
	outer->version_length = 0x45;
	outer->length = swap(length + IP);
	outer->ttl = 64;
	outer->protocol = PROTOCOL_IPIP;
	outer->source = OUTER_SOURCE;
	outer->destination = OUTER_DESTINATION;
	return XDP_TX;
}

static __always_inline int decapsulate(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, ethernet[ETH];

	if (data + ETH > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(ethernet, data, ETH);
	if (bpf_xdp_adjust_head(ctx, IP))
		return XDP_ABORTED;
	data = (__u8 *)(long)ctx->data;
	if (data + ETH > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(data, ethernet, ETH);
	return XDP_PASS;
}

static __always_inline int as_told(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	struct ip *ip = (struct ip *)(data + ETH);

	if (data + ETH + IP + 10 > end || data[12] != 8 || data[13] != 0)
		return XDP_PASS;
	switch (ip->tos) {
	case DROP:
		return XDP_DROP;
	case ABORT:
		return XDP_ABORTED;
	case REWRITE:
		ip->destination = OUTER_DESTINATION;
		return XDP_PASS;
	case ENCAPSULATE:
		return encapsulate(ctx, swap(ip->length));
	case DECAPSULATE:
		if (decapsulate(ctx) != XDP_PASS)
			return XDP_ABORTED;
		/* One in a hundred is dropped after that, by the IP header's identification. */
		data = (__u8 *)(long)ctx->data;
		end = (__u8 *)(long)ctx->data_end;
		ip = (struct ip *)(data + ETH);
		if (data + ETH + IP > end)
			return XDP_ABORTED;
		return swap(ip->id) % 100 ? XDP_PASS : XDP_DROP;
	default:
		return XDP_PASS;
	}
}

SEC("xdp.frags")
int does_as_told(struct xdp_md *ctx)
{
	return as_told(ctx);
}

/* Like libxdp's dispatcher: a component takes the place of its slot. */
__attribute__((noinline)) int prog0(struct xdp_md *ctx)
{
	volatile int verdict = XDP_PASS;

	if (!ctx)
		return XDP_ABORTED;
	/* Newer kernels let a component change packets only where its slot may, too. */
	if (verdict != XDP_PASS)
		return bpf_xdp_adjust_head(ctx, 0);
	return verdict;
}

SEC("xdp")
int xdp_dispatcher(struct xdp_md *ctx)
{
	return prog0(ctx);
}

SEC("freplace")
int component(struct xdp_md *ctx)
{
	return as_told(ctx);
}

char LICENSE[] SEC("license") = "GPL";
