/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the exit programs of flows.bpf.c do: count a packet in its flow, and then with its verdict.
 */
#ifndef __XDPSCOPE_FLOW_EXIT_H
#define __XDPSCOPE_FLOW_EXIT_H

#include "flow_entry.h"

/* Verdict and index as they are in a key: see struct flow4_key. */
static __always_inline __u64 exit_bits(__u64 verdict, __u64 index)
{
	return verdict | index >> 16 << 3 | (index & 0xffff) << 16;
}

/* Count a packet of a flow, if it has one; else `reason` of `target` says why not. */
static __always_inline void account(struct xdp_buff *xdp, struct target_counts *target,
				    __u64 verdict, __u64 length)
{
	struct entry *entry = &target->entry;
	__u64 owner = read_once(entry->owner);
	union flow_key key = entry->key;
	__u64 index = target->index;
	__u32 kind = ENTRY_NONE;
	bool short_way = true;

	/*
	 * The calculation uses a number, because the verifier allows no subtraction of
	 * pointers.
	 */
	if (owner == (__u64)xdp) {
		kind = ENTRY_IPV4;
	} else if (owner - OWNER_IPV6 == (__u64)xdp) {
		kind = ENTRY_IPV6;
	} else {
		short_way = false;
		if (owner - OWNER_OTHER == (__u64)xdp)
			kind = entry->kind;
	}
	barrier();
	if (read_once(entry->owner) != owner)
		kind = ENTRY_NONE;
	write_once(entry->owner, 0);
	/* The first of its kind, made a key of before anybody knew. */
	if (short_way && is_layer3(device_of(xdp, target))) {
		entry->layer3 = true;
		entry->short4 = entry->short6 = 0;
		kind = ENTRY_NONE;
	}
	target->reason = kind - ENTRY_NOT_IP;
	if (index >= NO_INDEX)
		target->reason = REASON_TABLE_FULL;
	else if (kind == ENTRY_IPV4)
		count_flow4(key.words[0], key.words[1] | exit_bits(verdict, index), length,
			    target->first_set);
	else if (kind == ENTRY_IPV6)
		count_flow6(&key, key.words[4] | exit_bits(verdict, index) << 32, length,
			    target->first_set, NULL, 0);
}

/*
 * The index of the device's record in `target`, after binding one if necessary; NO_INDEX if
 * there is none.
 */
static __noinline int find_record(struct xdp_buff *xdp, struct target_counts *target)
{
	struct net_device *device = device_of(xdp, target);
	struct device_counts *known = record_of(device, target, true, true);

	target->index = known ? known->index : NO_INDEX;
	return 0;
}

/*
 * The record that was found; it is looked up again, because of `index` in struct
 * target_counts.
 */
static __always_inline struct device_counts *found_record(struct xdp_buff *xdp,
							  struct target_counts *target)
{
	__u64 index = target->index;

	if (index < DEVICES_INLINE)
		return &target->devices[index];
	return overflow_record(identity_of(device_of(xdp, target)));
}

/* Any packet whatever. */
static __noinline int exit_flows_other(struct xdp_buff *xdp, struct target_counts *target,
				       __u64 returned, __u64 length)
{
	__u64 verdict = lesser((__u32)returned, VERDICT_UNKNOWN), reason;
	struct device_counts *known;

	if (!entered(&target->entry))
		return 0; /* counted by exit_verdicts() */
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

/* From a verdict's counter to the counter of packets not sampled, of the same verdict. */
#define SAMPLED_OUT_OFFSET                                                       \
	(((int)offsetof(struct device_counts, unaccounted[REASON_SAMPLED_OUT]) - \
	  (int)offsetof(struct device_counts, verdicts)) /                       \
	 (int)sizeof(struct tally))

/* An IPv6 packet on the target's first device, with a known verdict. */
static __noinline int exit_flows_ipv6(struct target_counts *target, __u64 verdict, __u64 length)
{
	struct entry *entry = &target->entry;
	struct target_counts *shifted;
	struct tally *tally;
	bool counted;

	/* No packet's: any value will do, and this one is in a register. */
	write_once(entry->owner, verdict);
	counted = count_flow6(&entry->key, entry->key.words[4] | verdict << 32, length,
			      target->first_set, &entry->owner, verdict);
	shifted = (void *)((struct tally *)target + verdict);
	asm volatile("" : "+r"(shifted));
	tally = shifted->devices[0].verdicts;
	if (__builtin_expect(!counted, false))
		add(tally + SAMPLED_OUT_OFFSET, length);
	add(tally, length);
	return 0;
}

/* Count an IPv4 packet on the first device of `target` in its flow, and then in its verdict. */
static __always_inline void count_ipv4(struct target_counts *target, __u64 first, __u64 second,
				       __u32 verdict, __u64 length, __u32 first_set)
{
	struct target_counts *shifted;

	/* The order keeps neither `verdict` nor `target` in a register for long. */
	asm volatile("" : "+r"(second));
	shifted = (void *)((struct tally *)target + verdict);
	asm volatile("" : "+r"(shifted));
	count_flow4(first, second, length, first_set);
	add(&shifted->devices[0].verdicts[0], length);
}

/*
 * An IPv4 packet on another of the target's own devices. `index` is below DEVICES_INLINE:
 * the code that has bound the record guarantees it.
 */
static __always_inline bool leave_own(struct xdp_buff *xdp, struct target_counts *target,
				      __u64 returned, __u64 length, bool by_epoch)
{
	struct target_counts *shifted = target;
	__u64 key[2], index, offset;
	__u32 verdict;

	if (!find_own(&shifted, device_of(xdp, target), by_epoch))
		return false;
	if (!by_epoch && !shifted->devices[0].mark)
		return false;
	verdict = low_half(returned);
	if (verdict > VERDICT_REDIRECT)
		return false;
	/* Before `owner`: see struct entry. */
	key[1] = read_once(target->entry.key.words[1]);
	key[0] = read_once(target->entry.key.words[0]);
	if (read_once(target->entry.owner) != (__u64)xdp + OWNER_IPV4)
		return false;
	write_once(target->entry.owner, verdict);
	/* Not `shifted`: the verifier would follow what comes once for each device. */
	index = shifted->devices[0].index;
	offset = index * sizeof(struct device_counts) + verdict * sizeof(struct tally);
	count_flow4(key[0], key[1] | verdict | index << 16, length, target->first_set);
	/* Always: the verifier has no bounds of `index`. */
	if (offset < sizeof(target->devices) - sizeof(target->devices[0].verdicts))
		add((void *)target->devices[0].verdicts + offset, length);
	return true;
}

/* A packet that is not one of the usual on the target's first device. */
static __noinline int exit_flows_by_epoch_other(struct xdp_buff *xdp, struct target_counts *target,
						__u64 returned, __u64 length)
{
	if (leave_own(xdp, target, returned, length, true))
		return 0;
	return exit_flows_other(xdp, target, returned, length);
}

static __noinline int leave_by_identity_other(struct xdp_buff *xdp, struct target_counts *target,
					      __u64 returned, __u64 length)
{
	if (leave_own(xdp, target, returned, length, false))
		return 0;
	return exit_flows_other(xdp, target, returned, length);
}

/* A packet on the target's first device that was not taken for flows. */
static __always_inline int exit_flows_untaken(__u64 *ctx, struct device_counts *first, __u64 length)
{
	struct tally *tally = &first->verdicts[verdict_of(ctx)];

	add(tally + SAMPLED_OUT_OFFSET, length);
	add(tally, length);
	return 0;
}

/* NULL if this exit does not count the packet. */
static __noinline struct target_counts *exit_flows_in_handover(bool timed)
{
	struct target_counts *target = target_counts_in_handover();

	/* Without an entry, another exit counts: exit_verdicts(), or the one that this replaces. */
	if (!target || !entered(&target->entry) || is_handed_over(target, way_of(timed)))
		return NULL;
	return target;
}

/* A packet that was not taken, or not on the short way. NULL if it is counted. */
static __always_inline struct target_counts *
exit_flows_maybe(__u64 *ctx, struct target_counts *target, __u64 length, bool by_epoch)
{
	struct device_counts *first = &target->devices[0];
	struct xdp_buff *xdp = packet_of(ctx);

	if (__builtin_expect(!recognised(first, device_of(xdp, target), by_epoch), false) ||
	    __builtin_expect(target->entry.owner - OWNER_OTHER == (__u64)xdp, false))
		return target;
	if (entered(&target->entry)) /* else counted by exit_verdicts() */
		exit_flows_untaken(ctx, first, length);
	return NULL;
}

/* After entry_flows_sampled(). */
static __always_inline int exit_flows_sampled(__u64 *ctx, __u64 length, bool by_epoch, bool timed)
{
	struct target_counts *target = target_counts();

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (target)
		target = exit_flows_maybe(ctx, target, length, by_epoch);
	else
		target = exit_flows_in_handover(timed);
	if (!target)
		return 0;
	return exit_flows_other(packet_of(ctx), target, ctx[1], length);
}

/* After entry_flows_harder(). NULL if the packet is counted. */
static __always_inline struct target_counts *exit_flows_harder(__u64 *ctx, __u64 length,
							       bool by_epoch, bool timed)
{
	struct target_counts *target = target_counts();
	__u64 owner;

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target)
		return exit_flows_in_handover(timed);
	owner = read_once(target->entry.owner);
	if (owner &&
	    (owner == (__u64)packet_of(ctx) || owner - OWNER_IPV6 == (__u64)packet_of(ctx)))
		return target;
	return exit_flows_maybe(ctx, target, length, by_epoch);
}

static __noinline struct target_counts *exit_flows_harder_by_epoch(__u64 *ctx, __u64 length,
								   bool timed)
{
	return exit_flows_harder(ctx, length, true, timed);
}

static __noinline struct target_counts *exit_flows_harder_by_identity(__u64 *ctx, __u64 length,
								      bool timed)
{
	return exit_flows_harder(ctx, length, false, timed);
}

/* After entry_flows_plain() and its like. */
static __always_inline int exit_flows(__u64 *ctx, bool by_epoch, bool timed)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_unless_sampled();
	struct device_counts *first;
	struct xdp_buff *xdp;
	__u64 key[2], owner, returned;
	__u32 verdict;

	if (timed && stop_time(ctx, target))
		target = target_unless_sampled();
	if (!target) {
		target = by_epoch ? exit_flows_harder_by_epoch(ctx, length, timed) :
				    exit_flows_harder_by_identity(ctx, length, timed);
		if (!target)
			return 0;
	}
	xdp = packet_of(ctx);
	returned = ctx[1]; /* here, so that `ctx` need not be kept */
	first = &target->devices[0];
	if (__builtin_expect(!recognised(first, device_of(xdp, target), by_epoch), false))
		goto other;
	verdict = low_half(returned);
	if (__builtin_expect(verdict > VERDICT_REDIRECT, false))
		goto other;
	/* Before `owner`: see struct entry. */
	key[1] = read_once(target->entry.key.words[1]);
	key[0] = read_once(target->entry.key.words[0]);
	owner = read_once(target->entry.owner);
	if (__builtin_expect(owner == (__u64)xdp + OWNER_IPV4, true)) {
		/* No packet's: any value will do, and this one is in a register. */
		write_once(target->entry.owner, verdict);
		count_ipv4(target, key[0], key[1] | verdict, verdict, length, target->first_set);
		return 0;
	}
	if (owner - OWNER_IPV6 == (__u64)xdp)
		return exit_flows_ipv6(target, verdict, length);
other:
	if (by_epoch)
		return exit_flows_by_epoch_other(xdp, target, returned, length);
	return leave_by_identity_other(xdp, target, returned, length);
}

/* A packet on any device that was not taken for flows. NULL if it is counted; else see `kind`. */
static __always_inline struct target_counts *
exit_only_untaken(__u64 *ctx, struct target_counts *target, __u64 length)
{
	struct device_counts *first = &target->devices[0];

	if (__builtin_expect(recognised(first, device_of(packet_of(ctx), target), true), true)) {
		exit_flows_untaken(ctx, first, length);
		return NULL;
	}
	target->entry.kind = ENTRY_LEFT_OUT;
	return target;
}

/* As exit_only_packet(), of sampled packets. */
static __always_inline int exit_only_packet_sampled(__u64 *ctx, __u64 length, bool timed)
{
	struct target_counts *target = target_counts();

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target)
		target = exit_in_handover(way_of(timed));
	if (!target)
		return 0;
	target->entry.counted = true;
	if (takes_packet(target)) {
		entry_flows_other(packet_of(ctx), target);
	} else {
		target = exit_only_untaken(ctx, target, length);
		if (!target)
			return 0;
	}
	return exit_flows_other(packet_of(ctx), target, ctx[1], length);
}

/* For programs that usually take each packet. NULL if this one is counted. */
static __noinline struct target_counts *exit_only_harder(__u64 *ctx, __u64 length, bool timed)
{
	struct target_counts *target = target_counts();

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target)
		target = exit_in_handover(way_of(timed));
	if (!target || takes_packet(target))
		return target;
	target->entry.counted = true;
	return exit_only_untaken(ctx, target, length);
}

/*
 * Without an entry, for a target that cannot alter its packets: what left it is what came in.
 * As long as there is exit_verdicts(), too, that comes second, and `counted` keeps it from
 * counting.
 */
static __always_inline int exit_only_packet(__u64 *ctx, enum reader reader, bool timed)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_unless_sampled();
	struct device_counts *first;
	enum entry_kind kind;
	struct xdp_buff *xdp;
	__u32 verdict;

	if (timed && stop_time(ctx, target))
		target = target_unless_sampled();
	if (!target) {
		target = exit_only_harder(ctx, length, timed);
		if (!target)
			return 0;
	}
	target->entry.counted = true;
	xdp = packet_of(ctx);
	first = &target->devices[0];
	verdict = low_half(ctx[1]);
	if (__builtin_expect(!recognised(first, device_of(xdp, target), true), false) ||
	    verdict > VERDICT_REDIRECT)
		goto other;
	kind = key_of(xdp, &target->entry.key, reader, NULL);
	if (__builtin_expect(kind == ENTRY_IPV4, true)) {
		count_ipv4(target, target->entry.key.words[0], target->entry.key.words[1] | verdict,
			   verdict, length, target->first_set);
		return 0;
	}
	if (kind == ENTRY_IPV6)
		return exit_flows_ipv6(target, verdict, length);
other:
	if (target->entry.kind == ENTRY_LEFT_OUT)
		target->entry.kind = ENTRY_NONE;
	else
		entry_flows_again(packet_of(ctx), target, reader);
	return exit_flows_by_epoch_other(packet_of(ctx), target, ctx[1], length);
}

/* Any packet, while none is taken for flows. */
static __noinline int exit_sampled_out_other(__u64 *ctx, struct target_counts *target, __u64 length)
{
	struct entry *entry = &target->entry;

	write_once(entry->owner, 0);
	entry->counted = true;
	entry->kind = ENTRY_NONE;
	return exit_flows_other(packet_of(ctx), target, ctx[1], length);
}

/*
 * Without an entry, for any target whose packets are not taken for flows at all. As long as there is
 * exit_verdicts(), too, `counted` keeps that from counting.
 */
static __always_inline int exit_sampled_out(__u64 *ctx, bool by_epoch)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts(), *shifted;

	if (!target) {
		target = exit_in_handover(WAY_SAMPLED_OUT);
		if (!target)
			return 0;
		goto other;
	}
	target->entry.counted = true;
	shifted = target;
	if (__builtin_expect(find_own(&shifted, device_of(packet_of(ctx), target), by_epoch), true))
		return exit_flows_untaken(ctx, &shifted->devices[0], length);
other:
	return exit_sampled_out_other(ctx, target, length);
}

#endif
