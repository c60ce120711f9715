/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The time that packets spend inside a target: from the last instruction of the entry program to
 * the exit program.
 */
#ifndef __XDPSCOPE_LATENCY_H
#define __XDPSCOPE_LATENCY_H

#include "counting.h"

/*
 * Remembers when a packet enters that is measured. One of `latency_rate` is, but at random:
 * traffic has rhythms.
 */
static __noinline int start_time_of(struct target_counts *target, __u64 packet)
{
	struct timing *timing = &target->timing;
	__u32 rate = read_once(control.latency_rate), at;

	write_once(timing->packet, 0);
	if (rate > 1) {
		at = bpf_get_prandom_u32() % rate;
		/* The rate may have been another one. */
		if (timing->sample_at < rate)
			timing->skip = rate - 1 - timing->sample_at + at;
		else
			timing->skip = at;
		timing->sample_at = at;
	}
	timing->skip_after = timing->skip;
	barrier();
	timing->started = bpf_ktime_get_ns();
	barrier();
	write_once(timing->packet, packet);
	return 0;
}

/* This comes last in an entry program. */
static __always_inline int start_time(__u64 *ctx, struct target_counts *target)
{
	if (target->timing.skip) {
		target->timing.skip--;
		return 0;
	}
	return start_time_of(target, (__u64)packet_of(ctx));
}

/* Where nothing else needs an entry. */
SEC("fentry")
int entry_time(__u64 *ctx)
{
	struct target_counts *target = target_counts();

	return target ? start_time(ctx, target) : 0;
}

/* The bucket of a time, given less 1: the number of bits. A clock that goes back means 0. */
static __always_inline __u32 bucket_of(__u64 less)
{
	__u32 rest = less, bits = 0;

	if (__builtin_expect(less >> (TIME_BUCKETS - 1), false))
		return less >> 63 ? 0 : TIME_BUCKETS - 1;
	if (rest >> 16) {
		rest >>= 16;
		bits = 16;
	}
	if (rest >> 8) {
		rest >>= 8;
		bits += 8;
	}
	if (rest >> 4) {
		rest >>= 4;
		bits += 4;
	}
	if (rest >> 2) {
		rest >>= 2;
		bits += 2;
	}
	return bits + rest - (rest == 3);
}

static __noinline int add_time(struct target_counts *target, __u64 packet)
{
	struct timing *timing = &target->timing;
	__u64 now = bpf_ktime_get_ns(), time = now - read_once(timing->started);

	/* After `started`: another packet may have come in between. See struct timing. */
	if (read_once(timing->packet) != packet)
		return 0;
	write_once(timing->packet, 0);
	if (timing->skip != timing->skip_after)
		return 0;
	timing->buckets[bucket_of(time - 1) & (TIME_BUCKETS - 1)]++;
	if ((__s64)time > 0)
		timing->total += time;
	return 0;
}

/*
 * Counts the time of a packet that leaves. This comes early in an exit program. If the result is
 * true, the caller must look up its counts again: most packets need no register for them that way.
 */
static __always_inline bool stop_time(__u64 *ctx, struct target_counts *target)
{
	if (!target || !target->timing.packet)
		return false;
	add_time(target, (__u64)packet_of(ctx));
	return true;
}

#endif
