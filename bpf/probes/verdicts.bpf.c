// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts the verdicts of one XDP program at its exit: packets and bytes by device and
 * verdict.
 *
 * The fexit programs are templates. One is loaded once, against the self-test program. For
 * each target the agent loads a copy of its instructions. In the copy, `counts` is replaced
 * by a map of that target alone, and TARGET by its number.
 */
#include "counting.h"
#include "latency.h"

/* Any device except the device in the target's first slot. */
static __noinline int count_other(struct net_device *device, struct target_counts *target,
				  enum verdict verdict, __u64 length)
{
	struct device_counts *known = record_of(device, target, false, true);

	if (verdict < VERDICTS)
		add(known ? &known->verdicts[verdict] : &target->unplaced[verdict], length);
	return 0;
}

static __always_inline int count(__u64 *ctx, bool by_epoch, bool timed)
{
	__u64 length = length_of(packet_of(ctx));
	struct target_counts *target = target_counts(), *shifted;
	struct net_device *device;
	enum verdict verdict;

	if (timed && stop_time(ctx, target))
		target = target_counts();
	if (!target) {
		target = exit_in_handover(way_of(timed));
		if (!target)
			return 0;
		device = device_of(packet_of(ctx), target);
		verdict = verdict_of(ctx);
		goto other;
	}
	device = device_of(packet_of(ctx), target);
	verdict = verdict_of(ctx);
	shifted = target;
	if (__builtin_expect(!find_own(&shifted, device, by_epoch), false))
		goto other;
	add(&shifted->devices[0].verdicts[verdict], length);
	return 0;
other:
	return count_other(device, target, verdict, length);
}

/* While `device_appears` is attached: recognises a device by its address. */
SEC("fexit")
int count_by_epoch(__u64 *ctx)
{
	return count(ctx, true, false);
}

/* Without: reads its identity for each packet, about 20 instructions more. */
SEC("fexit")
int count_by_identity(__u64 *ctx)
{
	return count(ctx, false, false);
}

/* Both, with times: see entry_time(). */
SEC("fexit")
int count_by_epoch_timed(__u64 *ctx)
{
	return count(ctx, true, true);
}

SEC("fexit")
int count_by_identity_timed(__u64 *ctx)
{
	return count(ctx, false, true);
}

char LICENSE[] SEC("license") = "GPL";
