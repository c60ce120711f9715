// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the verdicts of one XDP program, as verdicts.bpf.c does, and counts them by flow
 * too.
 *
 * A flow is the packet as it arrived, with the verdict with which it left: the fentry
 * program keeps the key for the fexit program. A target that alters no packet needs no
 * entry: exit_only_* does the work of both. All programs here are templates.
 *
 * The agent attaches the small exit of a target first, exit_verdicts_*. Then it attaches
 * exit_flows_* and entry_flows_*, or exit_only_* alone, and detaches the first. At any
 * moment in between, the attached programs count each packet once. That is also true if the
 * last of them is detached again: the agent may end at any step, and only its pins stay.
 *
 * For each packet the flow is counted before the target's own counters. A reader that reads
 * these first finds no flow ahead of them.
 */
#include <stddef.h>
#include "counting.h"
#include "latency.h"
#include "packet.h"
#include "flow_table.h"

/* How packets are taken for flows. The agent writes it at any time. */
SEC(".data.sampling") struct {
	__u32 rate; /* one of this many packets is taken; 0: none */
} sampling;

/*
 * For programs that take each packet: NULL while packets are sampled, and in a handover. See
 * struct control.
 */
static __always_inline struct target_counts *target_unless_sampled(void)
{
	return bpf_map_lookup_elem(&counts, &control.unsampled_key);
}

/*
 * Whether there ever was an entry on this CPU. Each leaves something behind: the protocol, in
 * the last word of a key, or `kind`.
 */
static __always_inline bool entered(const struct entry *entry)
{
	return entry->kind || entry->key.words[1] || entry->key.words[4];
}

/* A packet that does not take the short way. */
static __noinline int entry_flows_other(struct xdp_buff *xdp, struct target_counts *target)
{
	bool layer3 = is_layer3(device_of(xdp, target));
	struct entry *entry = &target->entry;

	if (layer3)
		entry->layer3 = true;
	entry->short4 = entry->layer3 ? 0 : bpf_htons(ETH_P_IP);
	entry->short6 = entry->layer3 ? 0 : bpf_htons(ETH_P_IPV6);
	write_once(entry->owner, 0);
	barrier();
	entry->kind = parse(xdp, &entry->key, layer3);
	barrier();
	write_once(entry->owner, (__u64)xdp + OWNER_OTHER);
	return 0;
}

static __always_inline int enter_packet(struct xdp_buff *xdp, struct target_counts *target,
					enum reader reader)
{
	enum entry_kind kind;

	/* No packet's: any value will do, and this one is in a register. */
	write_once(target->entry.owner, (__u64)target);
	kind = key_of(xdp, &target->entry.key, reader, &target->entry);
	if (__builtin_expect(kind == ENTRY_IPV4, true)) {
		barrier();
		write_once(target->entry.owner, (__u64)xdp + OWNER_IPV4);
		return 0;
	}
	if (kind != ENTRY_IPV6)
		return entry_flows_other(xdp, target);
	barrier();
	write_once(target->entry.owner, (__u64)xdp + OWNER_IPV6);
	return 0;
}

/*
 * One of `rate` packets, but at random: traffic has rhythms. The first packet of a CPU is always
 * taken: see entered(). Returns whether this packet is taken.
 */
static __noinline int entry_flows_taken(__u64 *ctx, struct target_counts *target)
{
	struct entry *entry = &target->entry;
	__u64 rate = read_once(sampling.rate), at;

	if (!rate && entered(entry)) {
		write_once(entry->owner, 0);
		return 0;
	}
	rate += !rate;
	at = bpf_get_prandom_u32() % rate;
	/* The rate may have been higher before. */
	entry->skip = rate - 1 - lesser(entry->sample_at, rate - 1) + at;
	entry->sample_at = at;
	entry_flows_other(packet_of(ctx), target);
	return 1;
}

static __always_inline int entry_flows_maybe(__u64 *ctx, struct target_counts *target)
{
	struct entry *entry = &target->entry;

	if (__builtin_expect(entry->skip, true)) {
		entry->skip--;
		write_once(entry->owner, 0);
		return 0;
	}
	entry_flows_taken(ctx, target);
	return 0;
}

/* While programs of the target replace each other: see struct control. */
static __noinline int entry_flows_in_handover(__u64 *ctx)
{
	struct target_counts *target = target_counts_in_handover();

	return target ? entry_flows_maybe(ctx, target) : 0;
}

static __always_inline int entry_flows_sampling(__u64 *ctx, bool timed)
{
	struct target_counts *target = target_counts();

	if (!target)
		return entry_flows_in_handover(ctx);
	entry_flows_maybe(ctx, target);
	return timed ? start_time(ctx, target) : 0;
}

/* For programs that usually take each packet. */
static __noinline int entry_flows_harder(__u64 *ctx, bool timed)
{
	return entry_flows_sampling(ctx, timed);
}

static __always_inline int entry_flows(__u64 *ctx, enum reader reader, bool timed)
{
	struct target_counts *target = target_unless_sampled();

	if (!target)
		return entry_flows_harder(ctx, timed);
	if (!timed)
		return enter_packet(packet_of(ctx), target, reader);
	enter_packet(packet_of(ctx), target, reader);
	return start_time(ctx, target);
}

/* At the exit, where there is no entry: by itself, so that usual packets do without it. */
#define DEFINE_ENTRY_FLOWS_AGAIN(name, reader)                                       \
	static __noinline int entry_flows_again_##name(struct xdp_buff *xdp,         \
						       struct target_counts *target) \
	{                                                                            \
		if (is_layer3(device_of(xdp, target)))                               \
			return entry_flows_other(xdp, target);                       \
		return enter_packet(xdp, target, reader);                            \
	}

DEFINE_ENTRY_FLOWS_AGAIN(plain, READ_PLAIN)
DEFINE_ENTRY_FLOWS_AGAIN(cast, READ_CAST)
DEFINE_ENTRY_FLOWS_AGAIN(copy, READ_COPY)

static __always_inline int entry_flows_again(struct xdp_buff *xdp, struct target_counts *target,
					     enum reader reader)
{
	if (reader == READ_PLAIN)
		return entry_flows_again_plain(xdp, target);
	if (reader == READ_CAST)
		return entry_flows_again_cast(xdp, target);
	return entry_flows_again_copy(xdp, target);
}

SEC("fentry")
int entry_flows_plain(__u64 *ctx)
{
	return entry_flows(ctx, READ_PLAIN, false);
}

SEC("fentry")
int entry_flows_plain_timed(__u64 *ctx)
{
	return entry_flows(ctx, READ_PLAIN, true);
}

SEC("fentry")
int entry_flows_cast(__u64 *ctx)
{
	return entry_flows(ctx, READ_CAST, false);
}

SEC("fentry")
int entry_flows_cast_timed(__u64 *ctx)
{
	return entry_flows(ctx, READ_CAST, true);
}

SEC("fentry")
int entry_flows_copy(__u64 *ctx)
{
	return entry_flows(ctx, READ_COPY, false);
}

SEC("fentry")
int entry_flows_copy_timed(__u64 *ctx)
{
	return entry_flows(ctx, READ_COPY, true);
}

SEC("fentry")
int entry_flows_sampled(__u64 *ctx)
{
	return entry_flows_sampling(ctx, false);
}

SEC("fentry")
int entry_flows_sampled_timed(__u64 *ctx)
{
	return entry_flows_sampling(ctx, true);
}

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
	struct device_counts *known = record_of(device, target, is_layer3(device));

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

/*
 * Count an IPv4 packet on the first device of `target`, which may be advanced to another one, in its
 * flow and then in its verdict.
 */
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
	__u64 key[2], index;
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
	index = shifted->devices[0].index;
	count_ipv4(shifted, key[0], key[1] | verdict | index << 16, verdict, length,
		   target->first_set);
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

static __noinline int exit_flows_in_handover(__u64 *ctx, __u64 length, bool timed)
{
	struct target_counts *target = target_counts_in_handover();

	if (!target || is_handed_over(target, timed))
		return 0;
	return exit_flows_other(packet_of(ctx), target, ctx[1], length);
}

/* After entry_flows_sampled(). */
static __always_inline int exit_flows_sampled(__u64 *ctx, __u64 length, bool by_epoch, bool timed)
{
	struct target_counts *target = target_counts();
	struct device_counts *first;
	struct xdp_buff *xdp;

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target)
		return exit_flows_in_handover(ctx, length, timed);
	xdp = packet_of(ctx);
	first = &target->devices[0];
	if (__builtin_expect(!recognised(first, device_of(xdp, target), by_epoch), false) ||
	    __builtin_expect(target->entry.owner - OWNER_OTHER == (__u64)xdp, false))
		return exit_flows_other(packet_of(ctx), target, ctx[1], length);
	if (!entered(&target->entry))
		return 0; /* counted by exit_verdicts() */
	return exit_flows_untaken(ctx, first, length);
}

/* After entry_flows_harder(). */
static __noinline int exit_flows_harder_by_epoch(__u64 *ctx, __u64 length, bool timed)
{
	return exit_flows_sampled(ctx, length, true, timed);
}

static __noinline int exit_flows_harder_by_identity(__u64 *ctx, __u64 length, bool timed)
{
	return exit_flows_sampled(ctx, length, false, timed);
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
	if (!target)
		return by_epoch ? exit_flows_harder_by_epoch(ctx, length, timed) :
				  exit_flows_harder_by_identity(ctx, length, timed);
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

static __noinline int exit_only_in_handover(__u64 *ctx, __u64 length, bool timed)
{
	struct target_counts *target = target_counts_in_handover();
	struct entry *entry;

	if (!target || is_handed_over(target, timed))
		return 0;
	entry = &target->entry;
	entry->counted = true;
	if (entry->skip) {
		entry->skip--;
		entry->kind = ENTRY_NONE;
	} else if (!entry_flows_taken(ctx, target)) {
		entry->kind = ENTRY_NONE;
	}
	return exit_flows_other(packet_of(ctx), target, ctx[1], length);
}

/* As exit_only_packet(), of sampled packets. */
static __always_inline int exit_only_packet_sampled(__u64 *ctx, __u64 length, bool timed)
{
	struct target_counts *target = target_counts();
	struct device_counts *first;
	struct entry *entry;

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target)
		return exit_only_in_handover(ctx, length, timed);
	first = &target->devices[0];
	entry = &target->entry;
	entry->counted = true;
	if (__builtin_expect(entry->skip, true))
		entry->skip--;
	else if (entry_flows_taken(ctx, target))
		return exit_flows_other(packet_of(ctx), target, ctx[1], length);
	if (__builtin_expect(!recognised(first, device_of(packet_of(ctx), target), true), false)) {
		entry->kind = ENTRY_NONE;
		return exit_flows_other(packet_of(ctx), target, ctx[1], length);
	}
	return exit_flows_untaken(ctx, first, length);
}

static __noinline int exit_only_harder(__u64 *ctx, __u64 length, bool timed)
{
	return exit_only_packet_sampled(ctx, length, timed);
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
	if (!target)
		return exit_only_harder(ctx, length, timed);
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
	entry_flows_again(packet_of(ctx), target, reader);
	return exit_flows_by_epoch_other(packet_of(ctx), target, ctx[1], length);
}

/*
 * Loads fast, and is attached first: counts verdicts until other programs do. After
 * exit_flows_* and entry_flows_* are attached, it stops once an entry has run on this CPU,
 * for good. From then on exit_flows_* counts, with or without further entries. After
 * exit_only_* is attached, it stops for the present packet alone, and leaves no state
 * behind.
 */
static __always_inline int exit_verdicts(__u64 *ctx, bool by_epoch)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts();
	__u64 verdict = lesser((__u32)ctx[1], VERDICT_UNKNOWN);
	struct device_counts *known;
	struct net_device *device;
	struct entry *entry;

	if (!target)
		target = target_counts_in_handover();
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
		known = record_of(device, target, is_layer3(device));
	add(known ? &known->verdicts[verdict] : &target->unplaced[verdict], length);
	return 0;
}

SEC("fexit")
int exit_verdicts_by_epoch(__u64 *ctx)
{
	return exit_verdicts(ctx, true);
}

SEC("fexit")
int exit_verdicts_by_identity(__u64 *ctx)
{
	return exit_verdicts(ctx, false);
}

SEC("fexit")
int exit_flows_by_epoch(__u64 *ctx)
{
	return exit_flows(ctx, true, false);
}

SEC("fexit")
int exit_flows_by_epoch_timed(__u64 *ctx)
{
	return exit_flows(ctx, true, true);
}

SEC("fexit")
int exit_flows_by_identity(__u64 *ctx)
{
	return exit_flows(ctx, false, false);
}

SEC("fexit")
int exit_flows_by_identity_timed(__u64 *ctx)
{
	return exit_flows(ctx, false, true);
}

SEC("fexit")
int exit_flows_sampled_by_epoch(__u64 *ctx)
{
	return exit_flows_sampled(ctx, length_of(packet_of(ctx)), true, false);
}

SEC("fexit")
int exit_flows_sampled_by_epoch_timed(__u64 *ctx)
{
	return exit_flows_sampled(ctx, length_of(packet_of(ctx)), true, true);
}

SEC("fexit")
int exit_flows_sampled_by_identity(__u64 *ctx)
{
	return exit_flows_sampled(ctx, length_of(packet_of(ctx)), false, false);
}

SEC("fexit")
int exit_flows_sampled_by_identity_timed(__u64 *ctx)
{
	return exit_flows_sampled(ctx, length_of(packet_of(ctx)), false, true);
}

SEC("fexit")
int exit_only_plain(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_PLAIN, false);
}

SEC("fexit")
int exit_only_plain_timed(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_PLAIN, true);
}

SEC("fexit")
int exit_only_cast(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_CAST, false);
}

SEC("fexit")
int exit_only_cast_timed(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_CAST, true);
}

SEC("fexit")
int exit_only_copy(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_COPY, false);
}

SEC("fexit")
int exit_only_copy_timed(__u64 *ctx)
{
	return exit_only_packet(ctx, READ_COPY, true);
}

SEC("fexit")
int exit_only_sampled(__u64 *ctx)
{
	return exit_only_packet_sampled(ctx, length_of(packet_of(ctx)), false);
}

SEC("fexit")
int exit_only_sampled_timed(__u64 *ctx)
{
	return exit_only_packet_sampled(ctx, length_of(packet_of(ctx)), true);
}

char LICENSE[] SEC("license") = "GPL";
