/* SPDX-License-Identifier: Apache-2.0 */
/* How many flows of a family a table of sets holds: with the product's hash, on this machine. */
#include <stdint.h>
#include <string.h>

typedef uint64_t __u64;
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#include "../../bpf/common/flow_hash.h"

enum {
	WAYS = 4,
	MOST_SETS = 1 << 14,
	MOST_WORDS = 5
};

static unsigned char used[MOST_SETS];

/* Returns how many of `count` keys, of two or five words each, find a place in 2^bits sets. */
long held(const __u64 *keys, long count, int words, int bits, __u64 one, __u64 other)
{
	long found = 0;

	memset(used, 0, sizeof(used));
	for (long i = 0; i < count; i++) {
		const __u64 *key = keys + i * words;
		__u64 hash = words == 2 ? hash4(key[0], key[1], one, other) :
					  hash6(key, key[4], one, other);
		unsigned char *near = &used[hash >> (64 - bits)];
		unsigned char *far = &used[hash << OTHER_SET >> (64 - bits)];

		if (*near < WAYS)
			found++, ++*near;
		else if (*far < WAYS)
			found++, ++*far;
	}
	return found;
}
