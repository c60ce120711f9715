// SPDX-License-Identifier: GPL-2.0-only
/* Puts a packet's first bytes into a ring as capture.bpf.c does: for tests without tracing. */
#include "vmlinux.h"
#include "capture.h"
#include <bpf/bpf_helpers.h>

#define SIZE 60

struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 12);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, sizeof(__u32));
	__array(values, struct ring);
} rings SEC(".maps");

/* The packet's first bytes are the record's header. */
SEC("xdp")
int record_packet(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data;
	struct capture_record *record = (struct capture_record *)data;
	__u32 copy[(sizeof(*record) + SIZE) / 4];
	__u32 ring_number;
	void *ring;

	if (data + sizeof(*record) + SIZE > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	/* In words: a copy in bytes takes more stack than there is (clang 19). */
	for (int i = 0; i < sizeof(copy) / sizeof(*copy); i++)
		copy[i] = ((__u32 *)data)[i];
	ring_number = record->cpu;
	ring = bpf_map_lookup_elem(&rings, &ring_number);
	if (!ring || bpf_ringbuf_output(ring, copy, sizeof(*record) + SIZE, BPF_RB_NO_WAKEUP))
		return XDP_DROP;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
