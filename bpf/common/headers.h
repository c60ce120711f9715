/* SPDX-License-Identifier: GPL-2.0-only */
/* The headers of a packet from Ethernet to IP, and how to step over them. */
#ifndef __XDPSCOPE_HEADERS_H
#define __XDPSCOPE_HEADERS_H

#include "vmlinux.h"
#include "xdpscope.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum {
	ETH_HEADER = 14,
	ETH_TYPE = 12,
	ETH_P_IP = 0x0800,
	ETH_P_IPV6 = 0x86dd,
	ETH_P_8021Q = 0x8100,
	ETH_P_8021AD = 0x88a8,
	ETH_P_QINQ1 = 0x9100, /* tags from before 802.1ad */
	ETH_P_QINQ2 = 0x9200,
	ETH_P_QINQ3 = 0x9300,
	ETH_P_MPLS = 0x8847,
	ETH_P_MPLS_MULTICAST = 0x8848,
	ETH_P_PPPOE_SESSION = 0x8864,
	LAYER2_HEADERS = 8, /* the limit of tags and labels before IP */

	PPPOE_VERSION_TYPE = 0x11,
	PPP_IP = 0x0021,
	PPP_IPV6 = 0x0057,
	PPP_MPLS = 0x0281,

	IPV4_HEADER = 20,
	IPV6_HEADER = 40,
	IPV6_EXTENSIONS = 6, /* the limit of extension headers: as many as RFC 8200 defines */

	PROTO_HOPOPTS = 0,
	PROTO_ICMP = 1,
	PROTO_TCP = 6,
	PROTO_UDP = 17,
	PROTO_DCCP = 33,
	PROTO_ROUTING = 43,
	PROTO_FRAGMENT = 44,
	PROTO_AH = 51,
	PROTO_ICMPV6 = 58,
	PROTO_DSTOPTS = 60,
	PROTO_SCTP = 132,
	PROTO_UDPLITE = 136,

	TCP_HEADER = 20,
	UDP_HEADER = 8,
	SCTP_HEADER = 12,
	ICMP_HEADER = 4, /* type, code, checksum: common to all messages */
};

/* Takes `size` bytes at `*at` and moves past them; false if they are not all there. */
static __always_inline bool take(void *to, __u64 *at, __u32 size, __u64 end)
{
	if (*at + size > end || bpf_probe_read_kernel(to, size, (void *)*at))
		return false;
	*at += size;
	return true;
}

struct ipv4 {
	__u8 version_length, tos;
	__be16 total_length, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
};

struct ipv6 {
	__u8 version, rest[5], next_header, hop_limit;
	__u8 source[16], destination[16];
};

static __always_inline bool is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD) ||
	       type == bpf_htons(ETH_P_QINQ1) || type == bpf_htons(ETH_P_QINQ2) ||
	       type == bpf_htons(ETH_P_QINQ3);
}

static __always_inline bool is_mpls(__be16 type)
{
	return type == bpf_htons(ETH_P_MPLS) || type == bpf_htons(ETH_P_MPLS_MULTICAST);
}

/* The Ethernet type of a protocol of PPP; 0 for all others. */
static __always_inline __be16 type_in_ppp(__be16 protocol)
{
	if (protocol == bpf_htons(PPP_IP))
		return bpf_htons(ETH_P_IP);
	if (protocol == bpf_htons(PPP_IPV6))
		return bpf_htons(ETH_P_IPV6);
	if (protocol == bpf_htons(PPP_MPLS))
		return bpf_htons(ETH_P_MPLS);
	return 0;
}

/* The Ethernet type of the IP version at `at`; 0 if it is no IP version. */
static __always_inline int type_of_version(__u64 at, __u64 end, __be16 *type)
{
	__u8 first;

	if (!take(&first, &at, sizeof(first), end))
		return ENTRY_TRUNCATED;
	*type = 0;
	if (first >> 4 == 4)
		*type = bpf_htons(ETH_P_IP);
	else if (first >> 4 == 6)
		*type = bpf_htons(ETH_P_IPV6);
	return 0;
}

/*
 * Moves `*at` from the Ethernet header to what follows tags, MPLS labels and the header of a PPPoE
 * session, and gets its type. The result is 0, or an enum entry_kind.
 */
static __always_inline int skip_layer2(__u64 *at, __u64 end, __be16 *type)
{
	__u8 header[8];

	*at += ETH_TYPE;
	if (!take(type, at, sizeof(*type), end))
		return ENTRY_TRUNCATED;
	for (int i = 0; i < LAYER2_HEADERS; i++) {
		if (is_tag(*type)) {
			if (!take(header, at, 4, end))
				return ENTRY_TRUNCATED;
			*type = *(__be16 *)&header[2];
		} else if (is_mpls(*type)) {
			if (!take(header, at, 4, end))
				return ENTRY_TRUNCATED;
			if (header[2] & 1) /* the last label: what follows has no type */
				return type_of_version(*at, end, type);
		} else if (*type == bpf_htons(ETH_P_PPPOE_SESSION)) {
			if (!take(header, at, 8, end))
				return ENTRY_TRUNCATED;
			if (header[0] != PPPOE_VERSION_TYPE || header[1] != 0)
				return ENTRY_NOT_IP;
			*type = type_in_ppp(*(__be16 *)&header[6]);
		} else {
			break;
		}
	}
	return 0;
}

#endif
