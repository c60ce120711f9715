// SPDX-License-Identifier: GPL-2.0-only
/* Programs whose verdicts have nothing to do with a packet's flow, or that change the packet. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define ETH_HLEN    14
#define SOURCE_MAC  6
#define IPV4_HEADER 20
#define IPV4_SOURCE (ETH_HLEN + 12)
#define IPV6_SOURCE (ETH_HLEN + 8)

struct ethernet {
	__u8 bytes[ETH_HLEN];
};

struct ipv4 {
	__u8 version_length, tos;
	__be16 total_length, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
};

/* The last byte of the source address is the verdict: any flow can have any. */
static __always_inline int decide(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	if (data + ETH_HLEN > end)
		return XDP_ABORTED;
	if (data[SOURCE_MAC + 5] == XDP_REDIRECT)
		return bpf_redirect(1, 0);
	return data[SOURCE_MAC + 5];
}

SEC("xdp")
int decide_by_source_mac(struct xdp_md *ctx)
{
	return decide(ctx);
}

/* The same, from a program that writes to its packets: what was there. */
SEC("xdp")
int write_and_decide(struct xdp_md *ctx)
{
	volatile __u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	if (data + 1 > end)
		return XDP_ABORTED;
	data[0] = data[0];
	return decide(ctx);
}

/* Into IPv4, whose addresses no packet came with. */
SEC("xdp")
int encapsulate(struct xdp_md *ctx)
{
	struct ethernet *old, *new;
	struct ipv4 *outer;
	void *end;

	if (bpf_xdp_adjust_head(ctx, -IPV4_HEADER))
		return XDP_ABORTED;
	new = (void *)(long)ctx->data;
	old = (void *)new + IPV4_HEADER;
	outer = (void *)(new + 1);
	end = (void *)(long)ctx->data_end;
	if ((void *)(old + 1) > end || (void *)(outer + 1) > end)
		return XDP_ABORTED;
	*new = *old;
	new->bytes[12] = 8;
	new->bytes[13] = 0;
	*outer = (struct ipv4){
		.version_length = 0x45,
		.ttl = 64,
		.protocol = 4,
		.source = 0x010200c0, /* 192.0.2.1 */
		.destination = 0x020200c0,
	};
	return XDP_TX;
}

/* Out of IPv4. */
SEC("xdp")
int decapsulate(struct xdp_md *ctx)
{
	struct ethernet *old = (void *)(long)ctx->data, kept, *new;

	if ((void *)(old + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	kept = *old;
	if (bpf_xdp_adjust_head(ctx, IPV4_HEADER))
		return XDP_ABORTED;
	new = (void *)(long)ctx->data;
	if ((void *)(new + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	*new = kept;
	return XDP_PASS;
}

/* Addresses and ports of IPv4 become others, and so does the protocol. */
SEC("xdp")
int translate(struct xdp_md *ctx)
{
	struct ipv4 *ip = (void *)(long)ctx->data + ETH_HLEN;
	__be32 *ports = (void *)(ip + 1);

	if ((void *)(ports + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	ip->source = 0x010200c0;
	ip->destination = 0x020200c0;
	ip->protocol = 17;
	*ports = 0x01020304;
	return XDP_TX;
}

/* Leaves with ten bytes less at its end. */
SEC("xdp")
int cut_the_tail(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_tail(ctx, -10) ? XDP_ABORTED : XDP_DROP;
}

/*
 * For floods: a test run's packet stays as the run before has left it, so that each run sees the
 * next number in its source address. It begins with the one that the test gives the packet.
 *
 * A packet whose source MAC address ends in 2 is not touched.
 */
static __always_inline int next_source(struct xdp_md *ctx, int at)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	if (data + at + 4 > end)
		return XDP_ABORTED;
	if (data[SOURCE_MAC + 5] == XDP_PASS)
		return XDP_PASS;
	*(__u32 *)(data + at) += 1;
	return XDP_DROP;
}

SEC("xdp")
int next_source4(struct xdp_md *ctx)
{
	return next_source(ctx, IPV4_SOURCE);
}

SEC("xdp")
int next_source6(struct xdp_md *ctx)
{
	return next_source(ctx, IPV6_SOURCE);
}

/*
 * For families of flows: each run's packet is of the next one. The number's low `bits` go to the byte
 * at `byte`, the others to the 16 bits at `word`, in network order. With `bits` 0 and no `word`, the 64
 * bits at `byte` are random.
 */
struct {
	__u32 next, byte, word, bits;
} family = { .byte = IPV4_SOURCE };

SEC("xdp")
int next_of_family(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	__u32 number = family.next++, bits = family.bits & 15;
	__u8 *byte = data + (family.byte & 127), *word = data + (family.word & 127);

	if (byte + 8 > end || word + 2 > end)
		return XDP_ABORTED;
	if (!family.word) {
		*(__u32 *)byte = bpf_get_prandom_u32();
		*(__u32 *)(byte + 4) = bpf_get_prandom_u32();
		return XDP_DROP;
	}
	*byte = number & ((1 << bits) - 1);
	word[0] = number >> bits >> 8;
	word[1] = number >> bits;
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
