// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts, as verdicts.bpf.c does, what one XDP program decided, and by flow besides. A
 * flow is the packet as it came in, with the verdict as it left: the fentry program
 * keeps the key for the fexit program. A target that alters no packet needs none: there
 * unaltered_* does the work of both.
 *
 * Everything here is a template, as there. Of a target's programs the small exit,
 * meanwhile_*, is attached first, then leave_*, then enter_*, or unaltered_* alone; then
 * the first is let go. At any moment in between those that are there count each packet
 * once, also if the last of them is gone again: the agent may end in the middle, and only
 * what it has pinned stays.
 *
 * In each packet the flow is counted before the target's own counters: whoever reads these
 * first has no flow ahead of them.
 */
#include <stddef.h>
#include "counting.h"
#include "packet.h"
#include "flow_table.h"

/* A packet that does not take the short way. */
static __noinline int enter_other(struct xdp_buff *xdp, struct entry *entry)
{
	enum entry_kind kind = parse(xdp, &entry->key);

	entry->ipv4 = entry->ipv6 = 0;
	entry->other = (__u64)xdp;
	entry->kind = kind;
	return 0;
}

static __always_inline int enter(__u64 *ctx, enum reader reader)
{
	struct target_counts *target = target_counts();
	enum entry_kind kind;
	struct xdp_buff *xdp;

	if (!target)
		return 0;
	xdp = packet_of(ctx);
	kind = key_of(xdp, &target->entry.key, reader);
	if (__builtin_expect(kind == ENTRY_IPV4, true)) {
		target->entry.ipv4 = (__u64)xdp;
		return 0;
	}
	if (kind != ENTRY_IPV6)
		return enter_other(xdp, &target->entry);
	target->entry.ipv4 = 0;
	target->entry.ipv6 = (__u64)xdp;
	return 0;
}

SEC("fentry")
int enter_plain(__u64 *ctx)
{
	return enter(ctx, READ_PLAIN);
}

SEC("fentry")
int enter_cast(__u64 *ctx)
{
	return enter(ctx, READ_CAST);
}

SEC("fentry")
int enter_copy(__u64 *ctx)
{
	return enter(ctx, READ_COPY);
}

/* One of each SAMPLE_RATE packets, but not always the same one: traffic has rhythms. */
static __noinline int enter_taken(__u64 *ctx, struct entry *entry)
{
	__u32 rate = constant(SAMPLE_RATE);
	__u32 at = bpf_get_prandom_u32() % rate;

	entry->skip = rate - 1 - entry->sample_at + at;
	entry->sample_at = at;
	return enter_other(packet_of(ctx), entry);
}

SEC("fentry")
int enter_sampled(__u64 *ctx)
{
	struct target_counts *target = target_counts();
	struct entry *entry;

	if (!target)
		return 0;
	entry = &target->entry;
	if (__builtin_expect(entry->skip, true)) {
		entry->skip--;
		entry->other = 0;
		return 0;
	}
	return enter_taken(ctx, entry);
}

/* Counts a packet of a flow, if it has one; else `reason` of `target` says why not. */
static __always_inline void account(struct xdp_buff *xdp, struct target_counts *target,
				    __u64 verdict, __u64 length)
{
	struct entry *entry = &target->entry;
	__u64 index = target->index;
	__u32 kind = ENTRY_NONE;

	if (entry->ipv4 == (__u64)xdp)
		kind = ENTRY_IPV4;
	else if (entry->ipv6 == (__u64)xdp)
		kind = ENTRY_IPV6;
	else if (entry->other == (__u64)xdp)
		kind = entry->kind;
	entry->ipv4 = entry->ipv6 = entry->other = 0;
	target->reason = kind - ENTRY_NOT_IP;
	if (index >= NO_INDEX)
		target->reason = REASON_TABLE_FULL;
	else if (kind == ENTRY_IPV4)
		count_flow4(&entry->key, entry->key.words[1] | verdict | index << 16, length);
	else if (kind == ENTRY_IPV6)
		count_flow6(&entry->key, entry->key.words[4] | verdict << 32 | index << 48, length);
}

/*
 * Whether there ever was an entry on this CPU. Each leaves something behind: the protocol, in
 * the last word of a key, or `kind`.
 */
static __always_inline bool entered(const struct entry *entry)
{
	return entry->kind || entry->key.words[1] || entry->key.words[4];
}

/* Which record is the device's, or is now: `index` of `target`, NO_INDEX if there is none. */
static __noinline int find_record(struct xdp_buff *xdp, struct target_counts *target)
{
	struct device_counts *known = record_of(device_of(xdp, target), target);

	target->index = known ? known->index : NO_INDEX;
	return 0;
}

/* The record that was found; looked up again, for see `index` in struct target_counts. */
static __always_inline struct device_counts *found_record(struct xdp_buff *xdp,
							  struct target_counts *target)
{
	__u64 index = target->index;

	if (index < DEVICES_INLINE)
		return &target->devices[index];
	return spilled_record(identity_of(device_of(xdp, target)));
}

/* Any packet whatever. */
static __noinline int leave_other(__u64 *ctx, struct target_counts *target, __u64 length)
{
	__u64 verdict = lesser((__u32)ctx[1], VERDICT_UNKNOWN), reason;
	struct xdp_buff *xdp = (struct xdp_buff *)ctx[0];
	struct device_counts *known;

	if (!entered(&target->entry))
		return 0; /* counted by count_meanwhile() */
	find_record(xdp, target);
	account(xdp, target, verdict, length);
	reason = target->reason;
	known = found_record(xdp, target);
	if (verdict >= VERDICTS)
		return 0;
	if (!known) {
		add(&target->unplaced[verdict], length);
		return 0;
	}
	if (reason < REASONS)
		add(&known->unaccounted[reason][verdict], length);
	add(&known->verdicts[verdict], length);
	return 0;
}

/* An IPv6 packet on the target's first device, with a known verdict. */
static __noinline int leave_ipv6(__u64 *ctx, struct target_counts *target, __u64 length)
{
	__u64 verdict = ctx[1] & 7; /* leave() has looked at the rest of it */
	struct tally *tally = &target->devices[0].verdicts[verdict];
	struct entry *entry = &target->entry;

	entry->ipv6 = 0;
	count_flow6(&entry->key, entry->key.words[4] | verdict << 32, length);
	add(tally, length);
	return 0;
}

/* After enter_plain() and its like. */
static __always_inline int leave(__u64 *ctx, bool by_epoch)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	struct device_counts *first;
	struct tally *tally;
	struct xdp_buff *xdp;
	__u32 verdict;

	if (!target)
		return 0;
	xdp = packet_of(ctx);
	first = &target->devices[0];
	if (__builtin_expect(!recognised(first, device_of(xdp, target), by_epoch), false))
		goto other;
	if (__builtin_expect(target->entry.ipv4 == (__u64)xdp, true)) {
		verdict = low_half(ctx[1]);
		if (__builtin_expect(verdict > VERDICT_REDIRECT, false))
			goto other;
		target->entry.ipv4 = 0;
		tally = &first->verdicts[verdict];
		count_flow4(&target->entry.key, target->entry.key.words[1] | verdict, length);
		add(tally, length);
		return 0;
	}
	if (target->entry.ipv6 == (__u64)xdp) {
		if (low_half(ctx[1]) > VERDICT_REDIRECT)
			goto other;
		return leave_ipv6(ctx, target, length);
	}
other:
	return leave_other(ctx, target, length);
}

/* From a verdict's counter to the one of packets not sampled, of the same verdict. */
#define SAMPLED_OUT_OFFSET                                                       \
	(((int)offsetof(struct device_counts, unaccounted[REASON_SAMPLED_OUT]) - \
	  (int)offsetof(struct device_counts, verdicts)) /                       \
	 (int)sizeof(struct tally))

/* A packet on the target's first device that was not taken for flows. */
static __always_inline int leave_untaken(__u64 *ctx, struct device_counts *first, __u64 length)
{
	struct tally *tally = &first->verdicts[verdict_of(ctx)];

	add(tally + SAMPLED_OUT_OFFSET, length);
	add(tally, length);
	return 0;
}

/* After enter_sampled(). */
static __always_inline int leave_sampled(__u64 *ctx, bool by_epoch)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	struct device_counts *first;
	struct xdp_buff *xdp;

	if (!target)
		return 0;
	xdp = packet_of(ctx);
	first = &target->devices[0];
	if (__builtin_expect(!recognised(first, device_of(xdp, target), by_epoch), false) ||
	    __builtin_expect(target->entry.other == (__u64)xdp, false))
		return leave_other(ctx, target, length);
	if (!entered(&target->entry))
		return 0; /* counted by count_meanwhile() */
	return leave_untaken(ctx, first, length);
}

/*
 * Without an entry, for a target that cannot alter its packets: what left it is what came in.
 * As long as there is count_meanwhile(), too, that comes second, and `counted` keeps it from
 * counting.
 */
static __always_inline int leave_unaltered(__u64 *ctx, enum reader reader)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	struct device_counts *first;
	enum entry_kind kind;
	struct tally *tally;
	struct xdp_buff *xdp;
	__u32 verdict;

	if (!target)
		return 0;
	target->entry.counted = true;
	xdp = packet_of(ctx);
	first = &target->devices[0];
	verdict = low_half(ctx[1]);
	if (__builtin_expect(!recognised(first, device_of(xdp, target), true), false) ||
	    verdict > VERDICT_REDIRECT)
		goto other;
	kind = key_of(xdp, &target->entry.key, reader);
	if (__builtin_expect(kind == ENTRY_IPV4, true)) {
		tally = &first->verdicts[verdict];
		count_flow4(&target->entry.key, target->entry.key.words[1] | verdict, length);
		add(tally, length);
		return 0;
	}
	if (kind == ENTRY_IPV6)
		return leave_ipv6(ctx, target, length);
other:
	enter_other(packet_of(ctx), &target->entry);
	return leave_other(ctx, target, length);
}

/* The same of sampled packets. */
static __always_inline int leave_unaltered_sampled(__u64 *ctx)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	struct device_counts *first;
	struct entry *entry;

	if (!target)
		return 0;
	first = &target->devices[0];
	entry = &target->entry;
	entry->counted = true;
	if (__builtin_expect(!entry->skip, false)) {
		enter_taken(ctx, entry);
		return leave_other(ctx, target, length);
	}
	entry->skip--;
	if (__builtin_expect(!recognised(first, device_of(packet_of(ctx), target), true), false)) {
		entry->kind = ENTRY_NONE;
		return leave_other(ctx, target, length);
	}
	return leave_untaken(ctx, first, length);
}

/*
 * Takes little to load, and is attached first: counts verdicts until others do. After leave_*
 * and enter_* that is when there has been an entry on this CPU, for good: leave_* counts from
 * then on, with or without further entries. After unaltered_* it is so for the packet at hand
 * alone, of which nothing is then left behind.
 */
static __always_inline int count_meanwhile(__u64 *ctx, bool by_epoch)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	__u64 verdict = lesser((__u32)ctx[1], VERDICT_UNKNOWN);
	struct device_counts *known;
	struct net_device *device;
	struct entry *entry;

	if (!target || verdict >= VERDICTS)
		return 0;
	entry = &target->entry;
	if (entry->counted) {
		entry->counted = entry->kind = 0;
		entry->key.words[1] = entry->key.words[4] = 0;
		return 0;
	}
	if (entered(entry))
		return 0;
	device = device_of(packet_of(ctx), target);
	known = &target->devices[0];
	if (!recognised(known, device, by_epoch))
		known = record_of(device, target);
	add(known ? &known->verdicts[verdict] : &target->unplaced[verdict], length);
	return 0;
}

SEC("fexit")
int meanwhile_by_epoch(__u64 *ctx)
{
	return count_meanwhile(ctx, true);
}

SEC("fexit")
int meanwhile_by_identity(__u64 *ctx)
{
	return count_meanwhile(ctx, false);
}

SEC("fexit")
int leave_by_epoch(__u64 *ctx)
{
	return leave(ctx, true);
}

SEC("fexit")
int leave_by_identity(__u64 *ctx)
{
	return leave(ctx, false);
}

SEC("fexit")
int leave_sampled_by_epoch(__u64 *ctx)
{
	return leave_sampled(ctx, true);
}

SEC("fexit")
int leave_sampled_by_identity(__u64 *ctx)
{
	return leave_sampled(ctx, false);
}

SEC("fexit")
int unaltered_plain(__u64 *ctx)
{
	return leave_unaltered(ctx, READ_PLAIN);
}

SEC("fexit")
int unaltered_cast(__u64 *ctx)
{
	return leave_unaltered(ctx, READ_CAST);
}

SEC("fexit")
int unaltered_copy(__u64 *ctx)
{
	return leave_unaltered(ctx, READ_COPY);
}

SEC("fexit")
int unaltered_sampled(__u64 *ctx)
{
	return leave_unaltered_sampled(ctx);
}

char LICENSE[] SEC("license") = "GPL";
