// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reports the number of entries of hash, LRU, LPM and DEVMAP_HASH maps, as the kernel counts it.
 *
 * User space puts the ids of the maps to read into `wanted`. The cost of a run depends on the
 * number of these maps and of CPUs, never on the number of entries. A map that the kernel does not
 * count has no record.
 *
 * Counters of single CPUs are added up without a lock. The sum is exact if nobody changes the map
 * meanwhile, else it is off by at most the changes made during the read.
 */
#include <stddef.h>
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

enum {
	MAX_MAPS = 1024, /* as MAPS_LIMIT in agent/xdpscope/probes/maps/entries.py */
	MAX_CPUS = 2048, /* of a host with more CPUs, sums over CPUs have no record */
	/* Entries that one CPU keeps on its own list of an LRU map: LOCAL_FREE_TARGET in
	 * kernel/bpf/bpf_lru_list.c is 128, and a CPU may steal some more.
	 */
	MAX_PENDING = 256,
};

/* include/uapi/linux/bpf.h */
#define BPF_MAP_TYPE_HASH_OF_MAPS 13

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_map___counted {
	__u32 map_flags;
};

struct list_head {
	struct list_head *next, *prev;
};

struct bpf_lru_list {
	unsigned int counts[2]; /* of entries in use: active and inactive ones */
};

/* Entries that one CPU took and that are in use, and those that it may take. Other names in 7.x,
 * where the kernel adds up by itself.
 */
struct bpf_lru_locallist {
	struct list_head lists[2]; /* free, pending */
};

struct bpf_common_lru {
	struct bpf_lru_list lru_list;
	struct bpf_lru_locallist *local_list;
};

struct bpf_lru {
	struct bpf_common_lru common_lru;
	struct bpf_lru_list *percpu_lru; /* with BPF_F_NO_COMMON_LRU */
	bool percpu;
};

struct percpu_counter {
	__s64 count;
	/* What each CPU has not yet added to `count`: from -31 to 31 (PERCPU_COUNTER_BATCH is 32). */
	__s32 *counters;
};

typedef struct {
	int counter;
} atomic_t;

/* `count` and `pcount` are kept for maps without preallocation only. */
struct bpf_htab {
	struct bpf_lru lru;
	atomic_t count;
	struct percpu_counter pcount; /* 6.1 */
	bool use_percpu_counter; /* 6.1 */
};

struct lpm_trie {
	__u64 n_entries;
};

struct bpf_dtab___counted {
	unsigned int items;
};

#pragma clang attribute pop

struct map_entries_record {
	__u32 map_id;
	__u32 zero;
	__u64 entries;
};

/* Puts the layout into this object's BTF, where the agent reads it. */
const struct map_entries_record *map_entries_record_layout;

/* What this needs to know of the host, beside its BTF. */
struct host {
	__u64 cpu_offsets; /* the address of __per_cpu_offset; 0: hidden, or not needed */
	__u64 cpus; /* possible ones */
};

/* Maps to report, by id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_MAPS);
	__type(key, __u32);
	__type(value, __u32);
} wanted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct host);
} hosts SEC(".maps");

/*
 * Adds up what each CPU counts for a hash map of any kind, preallocated ones too (6.6). The member
 * bpf_map::elem_count is no sign of that: it exists in stable 6.1, where nothing counts in it.
 */
extern __s64 bpf_map_sum_elem_count(struct bpf_map *map) __ksym __weak;

/* x86: the address of a CPU's own data. Missing in the BTF of 5.10: pahole was too old. */
extern const unsigned long this_cpu_off __ksym __weak;

/* What a structure has for each CPU. */
enum part {
	COUNTER, /* percpu_counter::counters */
	LRU_LIST, /* bpf_lru::percpu_lru */
	LRU_PENDING, /* bpf_common_lru::local_list */
};

/* The map at hand. One thread reads the iterator. */
enum part part;
__s64 entries;
__u64 cpu_offsets;
__u32 cpus;

/* Functions that are not static are verified once, not once for each call. */

/* Adds the length of a list. */
__noinline int add_list(__u64 head)
{
	struct list_head *node = BPF_CORE_READ((struct list_head *)head, next);
	int length = 0;

	for (int i = 0; i < MAX_PENDING; i++) {
		if (!node || (__u64)node == head)
			break;
		length++;
		node = BPF_CORE_READ(node, next);
	}
	entries += length;
	return 0;
}

/* Adds the count of one CPU. */
__noinline int add_one_cpu(__u64 address)
{
	struct bpf_lru_list *list = (struct bpf_lru_list *)address;
	__s32 count = 0;

	switch (part) {
	case COUNTER:
		bpf_probe_read_kernel(&count, sizeof(count), (void *)address);
		entries += count;
		break;
	case LRU_LIST:
		entries += BPF_CORE_READ(list, counts[0]);
		entries += BPF_CORE_READ(list, counts[1]);
		break;
	case LRU_PENDING:
		if (bpf_core_field_exists(struct bpf_lru_locallist, lists))
			add_list(address + bpf_core_field_offset(struct bpf_lru_locallist, lists) +
				 sizeof(struct list_head));
		break;
	}
	return 0;
}

static __always_inline bool find_cpu(__u32 cpu, __u64 *offset)
{
	const unsigned long *own;

	if (&this_cpu_off) {
		own = bpf_per_cpu_ptr(&this_cpu_off, cpu);
		if (own)
			*offset = *own;
		return own;
	}
	return cpu_offsets && !bpf_probe_read_kernel(offset, sizeof(*offset),
						     (void *)(cpu_offsets + cpu * sizeof(*offset)));
}

/* Adds the counts of all CPUs. Returns 0 if that is impossible. */
__noinline int add_all_cpus(__u64 address)
{
	__u64 offset;

	for (__u32 cpu = 0; cpu < MAX_CPUS; cpu++) {
		if (cpu >= cpus)
			return 1;
		offset = 0;
		if (!find_cpu(cpu, &offset))
			return 0;
		add_one_cpu(address + offset);
	}
	return 0;
}

static __always_inline bool count_lru(struct bpf_htab *map)
{
	if (BPF_CORE_READ(map, lru.percpu)) {
		part = LRU_LIST;
		return add_all_cpus((__u64)BPF_CORE_READ(map, lru.percpu_lru));
	}
	if (!bpf_core_field_exists(struct bpf_lru_locallist, lists))
		return false;
	entries = BPF_CORE_READ(map, lru.common_lru.lru_list.counts[0]);
	entries += BPF_CORE_READ(map, lru.common_lru.lru_list.counts[1]);
	part = LRU_PENDING;
	return add_all_cpus((__u64)BPF_CORE_READ(map, lru.common_lru.local_list));
}

static __always_inline bool count_hash(struct bpf_htab *map)
{
	struct bpf_map___counted *common = (struct bpf_map___counted *)map;

	/* Of a preallocated hash the kernel only has a list of what is free. */
	if (!(BPF_CORE_READ(common, map_flags) & BPF_F_NO_PREALLOC))
		return false;
	if (bpf_core_field_exists(map->use_percpu_counter) &&
	    BPF_CORE_READ(map, use_percpu_counter)) {
		entries = BPF_CORE_READ(map, pcount.count);
		part = COUNTER;
		return add_all_cpus((__u64)BPF_CORE_READ(map, pcount.counters));
	}
	entries = BPF_CORE_READ(map, count.counter);
	return true;
}

/* Sets `entries`. Returns false if the kernel does not count them. */
static __always_inline bool count(struct bpf_map *map, bool kernel_sums)
{
	bool lru = map->map_type == BPF_MAP_TYPE_LRU_HASH ||
		   map->map_type == BPF_MAP_TYPE_LRU_PERCPU_HASH;

	switch ((int)map->map_type) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_HASH_OF_MAPS:
	case BPF_MAP_TYPE_LRU_HASH:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH:
		if (kernel_sums) {
			entries = bpf_map_sum_elem_count(map);
			return true;
		}
		return lru ? count_lru((struct bpf_htab *)map) : count_hash((struct bpf_htab *)map);
	case BPF_MAP_TYPE_LPM_TRIE:
		entries = BPF_CORE_READ((struct lpm_trie *)map, n_entries);
		return true;
	case BPF_MAP_TYPE_DEVMAP_HASH:
		entries = BPF_CORE_READ((struct bpf_dtab___counted *)map, items);
		return true;
	default:
		return false;
	}
}

static __always_inline int report(struct bpf_iter__bpf_map *ctx, bool kernel_sums)
{
	struct map_entries_record record = {};
	struct bpf_map *map = ctx->map;
	struct host *host;
	__u32 first = 0;

	if (!map)
		return 0;
	record.map_id = map->id;
	host = bpf_map_lookup_elem(&hosts, &first);
	if (!host || !bpf_map_lookup_elem(&wanted, &record.map_id))
		return 0;
	cpu_offsets = host->cpu_offsets;
	cpus = host->cpus;
	entries = 0;
	if (!count(map, kernel_sums))
		return 0;
	/* An entry may be added on one CPU and deleted on another one between their reads. */
	record.entries = entries > 0 ? entries : 0;
	bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
	return 0;
}

SEC("iter/bpf_map")
int map_entries(struct bpf_iter__bpf_map *ctx)
{
	return report(ctx, true);
}

/* For kernels without bpf_map_sum_elem_count. */
SEC("iter/bpf_map")
int map_entries_by_cpu(struct bpf_iter__bpf_map *ctx)
{
	return report(ctx, false);
}

char LICENSE[] SEC("license") = "GPL";
