/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the entry programs of flows.bpf.c do: read the flow of a packet, and keep its key for the
 * exit program. Packets that are sampled or come in a handover take a way of their own.
 */
#ifndef __XDPSCOPE_FLOW_ENTRY_H
#define __XDPSCOPE_FLOW_ENTRY_H

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
 * Whether the packet after those that are left out is taken: one of `rate` packets, but at random,
 * because traffic has rhythms. The first packet of a CPU always is: see entered().
 */
static __noinline int is_taken(struct target_counts *target)
{
	struct entry *entry = &target->entry;
	__u64 rate = read_once(sampling.rate), at;

	if (!rate && entered(entry))
		return 0;
	rate += !rate;
	at = bpf_get_prandom_u32() % rate;
	/* The rate may have been higher before. */
	entry->skip = rate - 1 - lesser(entry->sample_at, rate - 1) + at;
	entry->sample_at = at;
	return 1;
}

/* Whether a packet is taken for flows. Asked once for each packet. */
static __always_inline bool takes_packet(struct target_counts *target)
{
	if (__builtin_expect(target->entry.skip, true)) {
		target->entry.skip--;
		return false;
	}
	return is_taken(target);
}

/* By itself, so that packets that are left out need fewer registers. */
static __noinline int entry_flows_next(__u64 *ctx, struct target_counts *target)
{
	if (is_taken(target))
		return entry_flows_other(packet_of(ctx), target);
	write_once(target->entry.owner, 0);
	return 0;
}

static __always_inline int entry_flows_maybe(__u64 *ctx, struct target_counts *target)
{
	if (__builtin_expect(!target->entry.skip, false))
		return entry_flows_next(ctx, target);
	target->entry.skip--;
	write_once(target->entry.owner, 0);
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

/* For programs that usually take each packet. NULL if this one needs no more work. */
static __noinline struct target_counts *entry_flows_harder(__u64 *ctx, bool timed)
{
	struct target_counts *target = target_counts();

	if (!target) {
		entry_flows_in_handover(ctx);
		return NULL;
	}
	if (takes_packet(target))
		return target;
	write_once(target->entry.owner, 0);
	if (timed)
		start_time(ctx, target);
	return NULL;
}

static __always_inline int entry_flows(__u64 *ctx, enum reader reader, bool timed)
{
	struct target_counts *target = target_unless_sampled();

	if (!target) {
		target = entry_flows_harder(ctx, timed);
		if (!target)
			return 0;
	}
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

#endif
