/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The flow table of all targets: for each CPU sets of a few ways. A flow is in one of the
 * two sets that its hash selects. If both are full, a new flow replaces the flow in the
 * first set that was idlest recently. The target's own counters have the packets of the
 * evicted flow, so that only its name is lost.
 */
#ifndef __XDPSCOPE_FLOW_TABLE_H
#define __XDPSCOPE_FLOW_TABLE_H

#include "counting.h"
#include "flow_hash.h"

/*
 * The agent sets the number of sets, a power of two. Where most possible CPUs are not there, it makes
 * these two plain arrays, with the sets of one CPU after those of another: a per-CPU array would
 * take memory for CPUs that never come. The same instructions do for both.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_set4);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_set6);
} flows6 SEC(".maps");

/*
 * Whether there ever was a flow of the family: an empty table need not be read. Last, how many sets
 * each CPU has: the agent notes it for the next one.
 */
SEC(".data.taken") __u32 taken[3];

/* The first set of a flow, of this CPU's: the upper bits of its hash. */
static __always_inline __u32 set_of(__u64 hash)
{
	asm volatile("%0 >>= %1" : "+r"(hash) : "i"(SET_SHIFT));
	return hash;
}

/* The second one: other bits. */
static __always_inline __u32 other_set_of(__u64 hash)
{
	return set_of(hash << OTHER_SET);
}

static __always_inline bool same_key(const __u64 *one, const __u64 *other, int words)
{
	for (int i = words - 1; i >= 0; i--) {
		if (one[i] != other[i])
			return false;
	}
	return true;
}

/*
 * The two families differ in their types alone.
 *
 * usedN    returns how many ways of a set are used
 * idlestN  returns the way of a set whose flow had the fewest packets recently, and forgets
 *          an eighth of each flow's recent packets
 * putN     puts a new flow into a set
 * settleN  counts a packet of a flow that is not in `near`, its first set
 *
 * The verifier follows each branch both ways in each round of a loop; so there are few.
 */
#define DEFINE_FAMILY(n, words)                                                                 \
	static __always_inline __u64 used##n(const struct flow_set##n *set)                     \
	{                                                                                       \
		__u64 used = 0;                                                                 \
                                                                                                \
		for (int i = 0; i < FLOW_WAYS; i++)                                             \
			used -= sign(-(__u64)set->flows[i].target);                             \
		return used;                                                                    \
	}                                                                                       \
                                                                                                \
	static __always_inline __u64 idlest##n(struct flow_set##n *set)                         \
	{                                                                                       \
		__u64 least = ~0ULL >> 1;                                                       \
                                                                                                \
		for (__u64 i = 0; i < FLOW_WAYS; i++) {                                         \
			struct flow##n *flow = &set->flows[i];                                  \
			__u32 stale = flow->stale, fresh = (__u32)flow->packets - stale;        \
                                                                                                \
			flow->stale = stale + ((fresh + 7) >> 3);                               \
			least = lesser(least, (__u64)fresh << 8 | i);                           \
		}                                                                               \
		return least & (FLOW_WAYS - 1);                                                 \
	}                                                                                       \
                                                                                                \
	static __always_inline void put##n(struct flow_set##n *set, __u64 at,                   \
					   const struct flow##n *wanted)                        \
	{                                                                                       \
		taken[n == 6] = 1;                                                              \
		set->started++;                                                                 \
		barrier();                                                                      \
		set->flows[at & (FLOW_WAYS - 1)] = *wanted;                                     \
		barrier();                                                                      \
		set->done++;                                                                    \
	}                                                                                       \
                                                                                                \
	static __noinline int settle##n(struct flow_set##n *near, const struct flow##n *wanted, \
					__u32 other)                                            \
	{                                                                                       \
		struct flow_set##n *far;                                                        \
		struct flow##n *flow;                                                           \
                                                                                                \
		if (near->flows[FLOW_WAYS - 1].target == 0) {                                   \
			put##n(near, used##n(near), wanted);                                    \
			return 0;                                                               \
		}                                                                               \
		far = bpf_map_lookup_elem(&flows##n, &other);                                   \
		if (!far)                                                                       \
			return 0;                                                               \
		for (int i = 0; i < FLOW_WAYS; i++) {                                           \
			flow = &far->flows[i];                                                  \
			if (same_key(flow->key, wanted->key, words) &&                          \
			    flow->target == wanted->target) {                                   \
				flow->packets++;                                                \
				flow->bytes += wanted->bytes;                                   \
				return 0;                                                       \
			}                                                                       \
		}                                                                               \
		if (far->flows[FLOW_WAYS - 1].target == 0)                                      \
			put##n(far, used##n(far), wanted);                                      \
		else                                                                            \
			put##n(near, idlest##n(near), wanted);                                  \
		return 0;                                                                       \
	}

DEFINE_FAMILY(4, 2)
DEFINE_FAMILY(6, 5)

/* `usual`: see is_target(). Compilers cannot repeat its asm, so it is not used in loops. */
static __always_inline bool is_own(__u64 target, bool usual)
{
	return usual ? is_target(target) : target == constant(TARGET);
}

static __always_inline bool count_if4(struct flow4 *flow, __u64 first, __u64 second, __u64 length,
				      bool usual)
{
	if (flow->key[0] != first || flow->key[1] != second || !is_own(flow->target, usual))
		return false;
	flow->packets++;
	flow->bytes += length;
	return true;
}

/* The words of the key are read each time they are needed: there are more than registers. */
static __always_inline bool is_flow6(const struct flow6 *flow, const volatile __u64 *words,
				     __u64 last, bool usual)
{
	/* First what flows differ in most: the lower half of the source, ports. */
	return flow->key[1] == words[1] && flow->key[4] == last && flow->key[0] == words[0] &&
	       flow->key[3] == words[3] && flow->key[2] == words[2] && is_own(flow->target, usual);
}

/*
 * Count one packet of a flow. `second` or `last` is the part of the key that the exit has
 * completed.
 */
static __always_inline void count_flow4(__u64 first, __u64 second, __u64 length, __u32 first_set)
{
	__u64 hash = hash4(first, second, constant64(HASH_FIRST), constant64(HASH_SECOND));
	volatile __u64 kept = hash; /* in memory: no register is free */
	__u32 at = set_of(hash) + first_set;
	struct flow_set4 *set;
	struct flow4 wanted;

	set = bpf_map_lookup_elem(&flows4, &at);
	if (!set)
		return;
	/* Not inlined: here flows are found. */
	if (__builtin_expect(count_if4(&set->flows[0], first, second, length, true), true)) {
		asm volatile("");
		return;
	}
	asm volatile("" : "+r"(set)); /* so that nothing is computed sooner */
	for (int i = 1; i < FLOW_WAYS; i++) {
		if (count_if4(&set->flows[i], first, second, length, false))
			return;
	}
	wanted = (struct flow4){ .key = { first, second }, .packets = 1, .bytes = length };
	wanted.target = constant(TARGET);
	settle4(set, &wanted, other_set_of(kept) + at - set_of(kept));
}

/*
 * If `key` may change while it is read, `*owner` differs from `left` afterwards. Then the
 * packet is not counted, and the result is false. `owner` is NULL if the key cannot change.
 */
static __always_inline bool count_flow6(const union flow_key *key, __u64 last, __u64 length,
					__u32 first_set, const volatile __u64 *owner, __u64 left)
{
	const volatile __u64 *words = key->words;
	__u64 hash = hash6(words, last, constant64(HASH_FIRST), constant64(HASH_SECOND));
	volatile __u64 kept = hash; /* in memory: no register is free */
	__u32 at = set_of(hash) + first_set;
	struct flow_set6 *set, *shifted;
	struct flow6 wanted;

	set = bpf_map_lookup_elem(&flows6, &at);
	if (!set)
		return true;
	if (__builtin_expect(is_flow6(&set->flows[0], words, last, true), true)) {
		if (owner && *owner != left)
			return false;
		set->flows[0].packets++;
		set->flows[0].bytes += length;
		asm volatile("");
		return true;
	}
	shifted = set;
	asm volatile("" : "+r"(shifted)); /* so that nothing is computed sooner */
#pragma unroll
	for (int i = 1; i < FLOW_WAYS; i++) {
		shifted = (void *)shifted + sizeof(struct flow6);
		asm volatile("" : "+r"(shifted)); /* else each sum begins with `set` */
		if (is_flow6(&shifted->flows[0], words, last, false)) {
			if (owner && *owner != left)
				return false;
			shifted->flows[0].packets++;
			shifted->flows[0].bytes += length;
			return true;
		}
	}
	wanted = (struct flow6){ .packets = 1, .bytes = length };
	for (int i = 0; i < 4; i++)
		wanted.key[i] = words[i];
	wanted.key[4] = last;
	wanted.target = constant(TARGET);
	if (owner && *owner != left)
		return false;
	settle6(set, &wanted, other_set_of(kept) + at - set_of(kept));
	return true;
}

#endif
