/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Converts a flow's key to a hash of 64 bits, whose upper bits are a set's number. It is
 * plain C, which a test compiles for the machine itself.
 *
 * `one` and `other` are secret and odd, so that nobody can choose flows that share a set.
 */
#ifndef __XDPSCOPE_FLOW_HASH_H
#define __XDPSCOPE_FLOW_HASH_H

enum {
	OTHER_SET = 20, /* the bits behind these are the number of the flow's second set */
};

/*
 * Multiply a sum of products by its own upper bits. The sum alone is not enough, because
 * multiplication carries differences upwards only. Keys that differ in the top bits of
 * their words would share sets for any secret. Keys in an arithmetic progression would fill
 * sets unevenly for some secrets.
 */
static __always_inline __u64 mix(__u64 sum)
{
	return sum * (sum >> 48);
}

/*
 * The last bytes of addresses and ports differ most. In memory order they are at the top of a word.
 * Swapping the second word puts its own at the bottom, so that the two never cancel out.
 */
static __always_inline __u64 hash4(__u64 first, __u64 second, __u64 one, __u64 other)
{
	return mix(first * one + __builtin_bswap64(second) * other);
}

/*
 * The same for five words. Folding in the middle keeps the first sums from cancelling out
 * with later ones.
 */
static __always_inline __u64 hash6(const volatile __u64 *words, __u64 last, __u64 one, __u64 other)
{
	__u64 sum = words[0] * one;

	sum = (sum + __builtin_bswap64(words[2])) * one;
	sum ^= sum >> 32;
	sum = (sum + __builtin_bswap64(words[3])) * one;
	sum = (sum + words[1]) * one;
	return mix((sum + last) * other);
}

#endif
