// SPDX-License-Identifier: GPL-2.0-only
/*
 * Calls the read-only helpers, each in every form that the verifier gives it. The program
 * is never run. Its loaded instructions show how calls of these helpers appear in other
 * programs.
 *
 * A helper belongs here if no argument through which it writes can point into a packet, on
 * any kernel. That is true for all whose prototype lacks `pkt_access`. It is also true for
 * those that only read through it (bpf_csum_diff, keys and values of maps,
 * bpf_perf_event_output).
 */
#include <stddef.h>
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define MAP(name, kind, flags)                     \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(map_flags, flags);          \
		__uint(max_entries, 1);            \
		__type(key, __u64);                \
		__type(value, __u64);              \
	} name SEC(".maps")

MAP(hash, HASH, 0);
MAP(lru_hash, LRU_HASH, 0);
MAP(percpu_hash, PERCPU_HASH, 0);
MAP(lru_percpu_hash, LRU_PERCPU_HASH, 0);
MAP(lpm_trie, LPM_TRIE, BPF_F_NO_PREALLOC);

#define INDEXED_MAP(name, kind)                    \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, 1);            \
		__type(key, __u32);                \
		__type(value, __u32);              \
	} name SEC(".maps")

INDEXED_MAP(array, ARRAY);
INDEXED_MAP(percpu_array, PERCPU_ARRAY);
INDEXED_MAP(cpumap, CPUMAP);
INDEXED_MAP(perf_events, PERF_EVENT_ARRAY);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

#define KNOWN(helper) bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_##helper)

static __always_inline void in_map(void *map, void *key, void *value)
{
	bpf_map_lookup_elem(map, key);
	bpf_map_update_elem(map, key, value, 0);
	bpf_map_delete_elem(map, key);
}

SEC("xdp")
int read_only_helpers(struct xdp_md *ctx)
{
	__u64 key = 0, value = 0;
	__u32 index = 0;
	void *reserved;

	in_map(&hash, &key, &value);
	in_map(&lru_hash, &key, &value);
	in_map(&percpu_hash, &key, &value);
	in_map(&lru_percpu_hash, &key, &value);
	in_map(&lpm_trie, &key, &value);
	in_map(&array, &index, &index);
	in_map(&percpu_array, &index, &index);

	bpf_redirect(1, 0);
	bpf_redirect_map(&cpumap, 0, 0); /* to other maps: read_only_redirects.bpf.c */

	bpf_ktime_get_ns();
	bpf_ktime_get_boot_ns();
	if (KNOWN(ktime_get_coarse_ns))
		bpf_ktime_get_coarse_ns();
	bpf_jiffies64();
	bpf_get_smp_processor_id();
	bpf_get_numa_node_id();
	bpf_get_prandom_u32();
	bpf_csum_diff(NULL, 0, (__be32 *)&value, sizeof(value), 0);
	if (KNOWN(xdp_get_buff_len))
		bpf_xdp_get_buff_len(ctx);
	if (KNOWN(xdp_load_bytes))
		bpf_xdp_load_bytes(ctx, 0, &value, sizeof(value));

	bpf_trace_printk("", 1);
	bpf_perf_event_output(ctx, &perf_events, BPF_F_CURRENT_CPU, &value, sizeof(value));
	bpf_ringbuf_output(&ring, &value, sizeof(value), 0);
	reserved = bpf_ringbuf_reserve(&ring, sizeof(value), 0);
	if (reserved)
		bpf_ringbuf_submit(reserved, 0);
	reserved = bpf_ringbuf_reserve(&ring, sizeof(value), 0);
	if (reserved)
		bpf_ringbuf_discard(reserved, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
