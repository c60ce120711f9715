// SPDX-License-Identifier: GPL-2.0-only
/*
 * Flows as one writes them first: the entry makes a key of the headers, the exit adds the
 * verdict and counts in the kernel's own table, beside the verdict itself.
 */
#include "../../bpf/vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

enum {
	LRU_PERCPU_HASH = 10, /* enum bpf_map_type */
	FLOWS = 65536,
	VERDICTS = 5
};
enum {
	ETH_P_IP = 0x0800,
	UDP = 17
};

struct headers {
	__u8 macs[12];
	__be16 type;
	__u8 version_length, tos;
	__be16 total_length, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 source, destination;
	__be16 ports[2], length, sum;
} __attribute__((packed));

struct key {
	__be32 source[4], destination[4];
	__be16 ports[2];
	__u8 protocol, verdict;
	__u16 device;
};

struct tally {
	__u64 packets, bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct key);
} scratch SEC(".maps");

struct {
	__uint(type, LRU_PERCPU_HASH);
	__uint(max_entries, FLOWS);
	__type(key, struct key);
	__type(value, struct tally);
} lru_flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, struct tally);
} lru_verdicts SEC(".maps");

static __always_inline struct key *kept(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&scratch, &only);
}

SEC("fentry")
int lru_entry(__u64 *ctx)
{
	struct xdp_buff *xdp = (struct xdp_buff *)ctx[0];
	struct key *key = kept();
	struct headers headers;

	if (!key)
		return 0;
	key->protocol = 0;
	if (xdp->data_end - xdp->data < sizeof(headers) ||
	    bpf_probe_read_kernel(&headers, sizeof(headers), xdp->data))
		return 0;
	if (headers.type != bpf_htons(ETH_P_IP) || headers.version_length != 0x45 ||
	    headers.protocol != UDP)
		return 0;
	key->source[0] = headers.source;
	key->destination[0] = headers.destination;
	key->ports[0] = headers.ports[0];
	key->ports[1] = headers.ports[1];
	key->protocol = headers.protocol;
	key->device = xdp->rxq->dev->ifindex;
	return 0;
}

static __always_inline void add(struct tally *tally, __u64 length)
{
	tally->packets++;
	tally->bytes += length;
}

SEC("fexit")
int lru_exit(__u64 *ctx)
{
	struct xdp_buff *xdp = (struct xdp_buff *)ctx[0];
	__u64 length = xdp->data_end - xdp->data;
	__u32 verdict = ctx[1];
	struct key *key = kept();
	struct tally *tally;

	if (!key)
		return 0;
	if (key->protocol) {
		key->verdict = verdict;
		tally = bpf_map_lookup_elem(&lru_flows, key);
		if (tally) {
			add(tally, length);
		} else {
			struct tally first = { .packets = 1, .bytes = length };

			bpf_map_update_elem(&lru_flows, key, &first, BPF_NOEXIST);
		}
	}
	tally = bpf_map_lookup_elem(&lru_verdicts, &verdict);
	if (tally)
		add(tally, length);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
