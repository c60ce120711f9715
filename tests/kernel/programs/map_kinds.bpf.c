// SPDX-License-Identifier: GPL-2.0-only
/* Programs that use maps of many types. What they do with packets does not matter. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

enum {
	SIZE = 1000,
	BPF_F_NO_COMMON_LRU = 2,
};

#define MAP(name, kind, size, flags, key_type)     \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(map_flags, flags);          \
		__uint(max_entries, size);         \
		__type(key, key_type);             \
		__type(value, __u64);              \
	} name SEC(".maps")

MAP(prealloc, HASH, SIZE, 0, __u32);
/* Counted by CPU if there are 64 entries or more for each CPU, else in one number. */
MAP(grown, HASH, SIZE, BPF_F_NO_PREALLOC, __u32);
MAP(grown_small, HASH, 8, BPF_F_NO_PREALLOC, __u32);
MAP(percpu, PERCPU_HASH, SIZE, 0, __u32);
MAP(percpu_grown, PERCPU_HASH, SIZE, BPF_F_NO_PREALLOC, __u32);
MAP(lru, LRU_HASH, SIZE, 0, __u32);
MAP(lru_by_cpu, LRU_HASH, SIZE, BPF_F_NO_COMMON_LRU, __u32);
MAP(lru_percpu, LRU_PERCPU_HASH, SIZE, 0, __u32);
MAP(prefixes, LPM_TRIE, SIZE, BPF_F_NO_PREALLOC, __u64);
MAP(plain, ARRAY, SIZE, 0, __u32);

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

static __always_inline void use(void *map)
{
	__u64 key = 0, *value = bpf_map_lookup_elem(map, &key);

	if (value)
		__sync_fetch_and_add(value, 1);
}

SEC("xdp")
int use_all(struct xdp_md *ctx)
{
	use(&prealloc);
	use(&grown);
	use(&grown_small);
	use(&percpu);
	use(&percpu_grown);
	use(&lru);
	use(&lru_by_cpu);
	use(&lru_percpu);
	use(&prefixes);
	use(&plain);
	return bpf_redirect_map(&devices, 0, XDP_PASS);
}

SEC("xdp")
int use_one(struct xdp_md *ctx)
{
	use(&grown);
	return XDP_PASS;
}

SEC("xdp")
int use_none(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
