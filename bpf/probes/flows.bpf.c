// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the verdicts of one XDP program, as verdicts.bpf.c does, and counts them by flow
 * too.
 *
 * A flow is the packet as it arrived, with the verdict with which it left: the fentry
 * program keeps the key for the fexit program. A target that alters no packet needs no
 * entry: exit_only_* does the work of both. While no packet is taken for flows, a busy target has
 * exit_sampled_out_* alone. All programs here are templates.
 *
 * The agent attaches the small exit of a target first, exit_verdicts_*. Then it attaches
 * exit_flows_* and entry_flows_*, or exit_only_* alone, and detaches the first. At any
 * moment in between, the attached programs count each packet once. That is also true if the
 * last of them is detached again: the agent may end at any step, and only its pins stay.
 *
 * For each packet the flow is counted before the target's own counters. A reader that reads
 * these first finds no flow ahead of them.
 */
#include "flow_entry.h"
#include "flow_exit.h"

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

/*
 * Loads fast, and is attached first: counts verdicts until other programs do. After
 * exit_flows_* and entry_flows_* are attached, it stops once an entry has run on this CPU,
 * for good. From then on exit_flows_* counts, with or without further entries. After
 * exit_only_* or exit_sampled_out_* is attached, it stops for the present packet alone, and leaves
 * no state behind.
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
		known = record_of(device, target, true, false);
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

SEC("fexit")
int exit_sampled_out_by_epoch(__u64 *ctx)
{
	return exit_sampled_out(ctx, true);
}

SEC("fexit")
int exit_sampled_out_by_identity(__u64 *ctx)
{
	return exit_sampled_out(ctx, false);
}

char LICENSE[] SEC("license") = "GPL";
