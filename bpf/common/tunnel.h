/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the packet inside a tunnel: VXLAN, Geneve, GRE, IPIP or GTP-U, over IPv4 or IPv6.
 *
 * A header whose lengths do not fit the packet means that there is no packet inside. The same
 * holds for fragments of the outer packet: no tunnel takes one as it is. Only the outermost
 * tunnel is opened. Formats: RFC 7348, 8926, 2784, 2890, 2003, 2473, 4213; 3GPP TS 29.281.
 */
#ifndef __XDPSCOPE_TUNNEL_H
#define __XDPSCOPE_TUNNEL_H

#include "headers.h"
#include "capture.h"

enum {
	PROTO_IPV4 = 4,
	PROTO_IPV6 = 41,
	PROTO_GRE = 47,

	PORT_GTPU = 2152,
	PORT_VXLAN = 4789,
	PORT_VXLAN_LINUX = 8472, /* Linux's default, older than the assigned port */
	PORT_GENEVE = 6081,
	TUNNEL_HEADER = 8, /* of VXLAN, Geneve and GTP-U, without options */

	VXLAN_HAS_VNI = 0x08,
	GENEVE_OPTIONS = 0x3f, /* their length, in words */

	GRE_CHECKSUM = 0x80,
	GRE_ROUTING = 0x40,
	GRE_KEY = 0x20,
	GRE_SEQUENCE = 0x10,
	GRE_VERSION = 0x07, /* in the second byte */
	ETH_P_TEB = 0x6558, /* transparent Ethernet bridging */

	GTPU_VERSION_1 = 0x30, /* and the bit that says GTP, not GTP' */
	GTPU_VERSION_MASK = 0xf0,
	GTPU_EXTENDED = 0x04,
	GTPU_LONG = 0x07, /* any of these bits: four more bytes */
	GTPU_PACKET = 255, /* the message that carries a packet */
	GTPU_EXTENSIONS = 4, /* the limit of extension headers */

	INNER_START = 1 << 15, /* more bytes than can come before the packet inside */
};

/* Addresses. The outer headers move them: `at` forwards, and the ends backwards. */
struct outer {
	__u64 at;
	__u64 end; /* of what is in the first part of the packet */
	__u64 whole; /* of what the outer headers contain */
};

/* Ends the packet `length` bytes behind `start`; false if it is not that long. */
static __always_inline bool narrow(struct outer *outer, __u64 start, __u64 length)
{
	__u64 end = start + length;

	if (end < outer->at || end > outer->whole)
		return false;
	outer->whole = end;
	if (outer->end > end)
		outer->end = end;
	return true;
}

static __always_inline bool skip(struct outer *outer, __u64 size)
{
	outer->at += size;
	return outer->at <= outer->end;
}

static __always_inline bool skip_ipv4(struct outer *outer, __u8 *protocol)
{
	__u64 start = outer->at;
	struct ipv4 ip;
	__u32 header;

	if (!take(&ip, &outer->at, sizeof(ip), outer->end))
		return false;
	header = (ip.version_length & 0xf) * 4;
	if (ip.version_length >> 4 != 4 || header < sizeof(ip) || ip.fragment & bpf_htons(0x3fff) ||
	    !skip(outer, header - sizeof(ip)))
		return false;
	*protocol = ip.protocol;
	return narrow(outer, start, bpf_ntohs(ip.total_length));
}

static __always_inline bool skip_ipv6(struct outer *outer, __u8 *protocol)
{
	struct ipv6 ip;
	__u8 next, header[8];

	if (!take(&ip, &outer->at, sizeof(ip), outer->end) || ip.version >> 4 != 6 ||
	    !narrow(outer, outer->at, ip.rest[3] << 8 | ip.rest[4]))
		return false;
	next = ip.next_header;
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_DSTOPTS &&
		    next != PROTO_FRAGMENT)
			break;
		if (!take(header, &outer->at, sizeof(header), outer->end))
			return false;
		if (next == PROTO_FRAGMENT) {
			if ((header[2] << 8 | header[3]) & 0xfff9)
				return false;
		} else if (!skip(outer, header[1] * 8)) {
			return false;
		}
		next = header[0];
	}
	*protocol = next;
	return true;
}

static __always_inline enum inner_kind inner_of_type(__be16 type)
{
	if (type == bpf_htons(ETH_P_TEB))
		return INNER_ETHERNET;
	if (type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6))
		return INNER_IP;
	return INNER_NONE;
}

static __always_inline enum inner_kind skip_gre(struct outer *outer, __be16 *type)
{
	__u8 header[4];
	__u32 options;

	if (!take(header, &outer->at, sizeof(header), outer->end) || header[0] & GRE_ROUTING ||
	    header[1] & GRE_VERSION)
		return INNER_NONE;
	options = (header[0] & GRE_CHECKSUM ? 4 : 0) + (header[0] & GRE_KEY ? 4 : 0) +
		  (header[0] & GRE_SEQUENCE ? 4 : 0);
	if (!skip(outer, options))
		return INNER_NONE;
	*type = *(__be16 *)&header[2];
	return inner_of_type(*type);
}

/* Steps over the rest of the header, and over extension headers; false if they do not fit. */
static __always_inline bool skip_gtpu(struct outer *outer, const __u8 header[TUNNEL_HEADER])
{
	__u8 more[4], next = 0, size;

	if ((header[0] & GTPU_VERSION_MASK) != GTPU_VERSION_1 || header[1] != GTPU_PACKET ||
	    !narrow(outer, outer->at, header[2] << 8 | header[3]))
		return false;
	if (header[0] & GTPU_LONG) {
		if (!take(more, &outer->at, sizeof(more), outer->end))
			return false;
		if (header[0] & GTPU_EXTENDED)
			next = more[3];
	}
	for (int i = 0; i < GTPU_EXTENSIONS && next; i++) {
		if (!take(&size, &outer->at, sizeof(size), outer->end) || !size ||
		    !skip(outer, size * 4 - 2) ||
		    !take(&next, &outer->at, sizeof(next), outer->end))
			return false;
	}
	return !next;
}

static __always_inline enum inner_kind skip_udp(struct outer *outer, __be16 *type)
{
	__u64 start = outer->at;
	__u8 header[TUNNEL_HEADER];
	__be16 udp[4];
	__u16 port;

	if (!take(udp, &outer->at, sizeof(udp), outer->end) ||
	    !narrow(outer, start, bpf_ntohs(udp[2])))
		return INNER_NONE;
	port = bpf_ntohs(udp[1]);
	if (port != PORT_VXLAN && port != PORT_VXLAN_LINUX && port != PORT_GENEVE &&
	    port != PORT_GTPU)
		return INNER_NONE;
	if (!take(header, &outer->at, sizeof(header), outer->end))
		return INNER_NONE;
	if (port == PORT_GTPU)
		return skip_gtpu(outer, header) ? INNER_IP : INNER_NONE;
	if (port == PORT_GENEVE) {
		if (header[0] & ~GENEVE_OPTIONS || !skip(outer, header[0] * 4))
			return INNER_NONE;
		*type = *(__be16 *)&header[2];
		return inner_of_type(*type);
	}
	return header[0] & VXLAN_HAS_VNI ? INNER_ETHERNET : INNER_NONE;
}

/* Whether an IP header begins at `at`: of that Ethernet type, unless it is 0. */
static __always_inline bool begins_with_ip(const struct outer *outer, __be16 wanted)
{
	__u64 at = outer->at;
	__be16 type;

	if (type_of_version(at, outer->end, &type) || !type || (wanted && type != wanted))
		return false;
	return at + (type == bpf_htons(ETH_P_IP) ? IPV4_HEADER : IPV6_HEADER) <= outer->end;
}

/*
 * Finds the packet inside the tunnel of a packet.
 *
 * data:   the address of the packet
 * linear: the bytes there; the rest of the packet's `length` bytes is in fragments
 * layer3: the packet begins with IP
 */
static __always_inline void find_inner(__u64 data, __u64 linear, __u64 length, bool layer3,
				       struct inner_packet *found)
{
	struct outer outer = { .at = data, .end = data + linear, .whole = data + length };
	enum inner_kind kind = INNER_NONE;
	__be16 type = 0;
	__u8 protocol;

	found->kind = INNER_NONE;
	if (layer3 ? type_of_version(outer.at, outer.end, &type) :
		     skip_layer2(&outer.at, outer.end, &type))
		return;
	if (type == bpf_htons(ETH_P_IP) ?
		    !skip_ipv4(&outer, &protocol) :
		    type != bpf_htons(ETH_P_IPV6) || !skip_ipv6(&outer, &protocol))
		return;
	type = 0;
	if (protocol == PROTO_IPV4 || protocol == PROTO_IPV6) {
		kind = INNER_IP;
		type = protocol == PROTO_IPV4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	} else if (protocol == PROTO_GRE) {
		kind = skip_gre(&outer, &type);
	} else if (protocol == PROTO_UDP) {
		kind = skip_udp(&outer, &type);
	}
	if (kind == INNER_NONE || (kind == INNER_ETHERNET ? outer.at + ETH_HEADER > outer.end :
							    !begins_with_ip(&outer, type)))
		return;
	found->start = outer.at - data;
	found->linear = outer.end - outer.at;
	found->length = outer.whole - outer.at;
	found->kind = kind;
}

#endif
