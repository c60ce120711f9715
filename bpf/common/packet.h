/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a packet's bytes to the key of its flow. A header counts as present if its whole
 * fixed part lies before data_end. Lengths that the packet claims do not matter; bytes
 * behind data_end are not read.
 *
 * IPv4 without options and IPv6 without extension headers, with TCP or UDP, take the fast
 * path through one of the readers below. All other packets go through parse().
 */
#ifndef __XDPSCOPE_PACKET_H
#define __XDPSCOPE_PACKET_H

#include "counting.h"
#include "headers.h"

/*
 * The ways in which a kernel allows reading packet bytes, the cheapest first: found by
 * loading.
 */
enum reader {
	READ_PLAIN, /* through the pointer itself */
	READ_CAST, /* bpf_rdonly_cast, 6.2 */
	READ_COPY, /* bpf_probe_read_kernel */
};

/* As newer versions of libbpf declare it too. */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym __weak;

static __always_inline __u64 word_at(const void *bytes, int offset)
{
	return *(volatile __u64 *)(bytes + offset);
}

/* The ports, or what stands in their place; none of what has none. */
static __always_inline bool transport_ports(__u64 at, __u64 end, __u8 protocol, bool v6,
					    __be16 ports[2])
{
	__u8 bytes[4];
	__u32 header;

	ports[0] = ports[1] = 0;
	if (protocol == PROTO_TCP)
		header = TCP_HEADER;
	else if (protocol == PROTO_UDP || protocol == PROTO_UDPLITE)
		header = UDP_HEADER;
	else if (protocol == PROTO_SCTP || protocol == PROTO_DCCP)
		header = SCTP_HEADER; /* DCCP's fixed part is as long */
	else if (protocol == (v6 ? PROTO_ICMPV6 : PROTO_ICMP))
		header = ICMP_HEADER;
	else
		return true;
	if (at + header > end || bpf_probe_read_kernel(bytes, sizeof(bytes), (void *)at))
		return false;
	if (header == ICMP_HEADER) {
		ports[0] = bpf_htons(bytes[0]);
		ports[1] = bpf_htons(bytes[1]);
	} else {
		__builtin_memcpy(ports, bytes, sizeof(bytes));
	}
	return true;
}

static __always_inline enum entry_kind parse_ipv4(__u64 at, __u64 end, union flow_key *key)
{
	struct ipv4 ip;
	__u64 start = at;
	__u32 length;

	if (!take(&ip, &at, sizeof(ip), end))
		return ENTRY_TRUNCATED;
	length = (ip.version_length & 0xf) * 4;
	if (ip.version_length >> 4 != 4 || length < sizeof(ip))
		return ENTRY_NOT_IP;
	at = start + length;
	if (at > end)
		return ENTRY_TRUNCATED;
	key->words[0] = key->words[1] = 0;
	key->v4.source = ip.source;
	key->v4.destination = ip.destination;
	key->v4.protocol = ip.protocol;
	if (ip.fragment & bpf_htons(0x1fff)) /* not the first: no transport header */
		return ENTRY_IPV4;
	if (!transport_ports(at, end, ip.protocol, false, key->v4.ports))
		return ENTRY_TRUNCATED;
	return ENTRY_IPV4;
}

static __always_inline enum entry_kind parse_ipv6(__u64 at, __u64 end, union flow_key *key)
{
	struct ipv6 ip;
	__u8 next, header[8];
	bool first = true;

	if (!take(&ip, &at, sizeof(ip), end))
		return ENTRY_TRUNCATED;
	if (ip.version >> 4 != 6)
		return ENTRY_NOT_IP;
	next = ip.next_header;
	for (int i = 0; i < IPV6_EXTENSIONS; i++) {
		if (next != PROTO_HOPOPTS && next != PROTO_ROUTING && next != PROTO_DSTOPTS &&
		    next != PROTO_FRAGMENT && next != PROTO_AH)
			break;
		if (at + sizeof(header) > end ||
		    bpf_probe_read_kernel(header, sizeof(header), (void *)at))
			return ENTRY_TRUNCATED;
		if (next == PROTO_FRAGMENT) {
			at += sizeof(header);
			first = !((header[2] << 8 | header[3]) & 0xfff8);
		} else if (next == PROTO_AH) {
			at += (header[1] + 2) * 4;
		} else {
			at += (header[1] + 1) * 8;
		}
		if (at > end)
			return ENTRY_TRUNCATED;
		next = header[0];
		if (!first)
			break;
	}
	key->words[4] = 0;
	__builtin_memcpy(key->v6.source, ip.source, sizeof(ip.source));
	__builtin_memcpy(key->v6.destination, ip.destination, sizeof(ip.destination));
	key->v6.protocol = next;
	if (first && !transport_ports(at, end, next, true, key->v6.ports))
		return ENTRY_TRUNCATED;
	return ENTRY_IPV6;
}

/* Any packet whatever. */
static __noinline int parse(struct xdp_buff *xdp, union flow_key *key, bool layer3)
{
	__u64 at = (__u64)xdp->data, end = (__u64)xdp->data_end;
	__be16 type = 0;
	int failed;

	if (layer3)
		failed = type_of_version(at, end, &type);
	else
		failed = skip_layer2(&at, end, &type);
	if (failed)
		return failed;
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(at, end, key);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(at, end, key);
	return ENTRY_NOT_IP;
}

/* Little-endian masks over the eight bytes from the IPv4 header's first. */
#define IPV4_CHECKED 0xff1f0000000000ffULL /* version, length; fragment offset */
#define IPV4_PLAIN   0x45ULL
/* Over the eight bytes from its time to live: protocol and source address. */
#define IPV4_KEPT 0xffffffff0000ff00ULL

/* Over the IPv6 header's first eight bytes: version, next header. */
#define IPV6_CHECKED	 0x00ff0000000000f0ULL
#define IPV6_PLAIN(next) (0x60ULL | (__u64)(next) << 48)

/* The shortest frames of each kind that can take the short way. */
#define PLAIN_TCP4 (ETH_HEADER + IPV4_HEADER + TCP_HEADER)
#define PLAIN_UDP6 (ETH_HEADER + IPV6_HEADER + UDP_HEADER)
#define PLAIN_TCP6 (ETH_HEADER + IPV6_HEADER + TCP_HEADER)

/*
 * Copied or not, bytes are addressed as in the packet. Copies are as short as can be, for
 * every eight bytes cost: up to IPv4's ports, then the rest of IPv6's header and ports.
 */
enum {
	COPY_BEGIN = ETH_TYPE,
	COPY_PAD = 6, /* has the words behind the Ethernet header aligned */
	COPY_SIZE = ETH_HEADER + IPV4_HEADER + 4 - COPY_BEGIN,
	COPY6_BEGIN = COPY_BEGIN + COPY_SIZE,
	COPY6_SIZE = ETH_HEADER + IPV6_HEADER + 4 - COPY6_BEGIN,
};

/*
 * Writes the key of a packet on the fast path into `key`, and returns its family; else
 * ENTRY_NONE: parse() handles the packet. `types` has the Ethernet types of the fast path.
 * It is NULL if the packet is known to begin with Ethernet.
 */
static __always_inline enum entry_kind key_of(struct xdp_buff *xdp, union flow_key *key,
					      enum reader reader, const struct entry *types)
{
	const void *data = xdp->data;
	__u64 room = (__u64)xdp->data_end - (__u64)data;
	__u64 copy[(COPY_PAD + COPY_SIZE) / 8];
	const void *bytes = data;
	__u64 transit;
	__u16 type;

	if (room < PLAIN_TCP4)
		return ENTRY_NONE;
	if (reader == READ_CAST)
		bytes = bpf_rdonly_cast((void *)data, bpf_core_type_id_kernel(struct new_utsname));
	if (reader == READ_COPY) {
		bpf_probe_read_kernel((void *)copy + COPY_PAD, COPY_SIZE, data + COPY_BEGIN);
		bytes = (void *)copy + COPY_PAD - COPY_BEGIN;
	}
	type = *(volatile __u16 *)(bytes + ETH_TYPE);
	if (__builtin_expect(type == (types ? types->short4 : bpf_htons(ETH_P_IP)), true)) {
		if ((word_at(bytes, ETH_HEADER) & IPV4_CHECKED) != IPV4_PLAIN)
			return ENTRY_NONE;
		transit = word_at(bytes, ETH_HEADER + 8);
		if ((transit & 0xff00) != PROTO_TCP << 8 && (transit & 0xff00) != PROTO_UDP << 8)
			return ENTRY_NONE;
		key->words[1] = transit & IPV4_KEPT;
		key->words[0] = word_at(bytes, ETH_HEADER + 16);
		return ENTRY_IPV4;
	}
	if (type != (types ? types->short6 : bpf_htons(ETH_P_IPV6)) || room < PLAIN_UDP6)
		return ENTRY_NONE;
	transit = word_at(bytes, ETH_HEADER) & IPV6_CHECKED;
	if (transit != IPV6_PLAIN(PROTO_UDP) &&
	    (transit != IPV6_PLAIN(PROTO_TCP) || room < PLAIN_TCP6))
		return ENTRY_NONE;
	key->words[0] = word_at(bytes, ETH_HEADER + 8);
	key->words[1] = word_at(bytes, ETH_HEADER + 16);
	if (reader == READ_COPY) {
		bpf_probe_read_kernel(copy, COPY6_SIZE, data + COPY6_BEGIN);
		bytes = (void *)copy - COPY6_BEGIN;
	}
	key->words[2] = word_at(bytes, ETH_HEADER + 24);
	key->words[3] = word_at(bytes, ETH_HEADER + 32);
	key->words[4] = *(volatile __u32 *)(bytes + ETH_HEADER + IPV6_HEADER) | transit >> 8;
	return ENTRY_IPV6;
}

#endif
