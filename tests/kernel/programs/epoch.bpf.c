// SPDX-License-Identifier: GPL-2.0-only
/* Counts as verdicts.bpf.c does. A device can appear while the device of a packet is identified. */
static void device_appears_now(void);
#define BETWEEN_EPOCH_AND_IDENTITY() device_appears_now()
#include "counting.h"

SEC(".data.test") struct {
	__u32 appears; /* devices that still have to appear */
	__u32 identified; /* packets whose device no comparison recognised */
} test;

static void device_appears_now(void)
{
	if (!test.appears)
		return;
	test.appears--;
	epoch.now += EPOCH_STEP;
	epoch.kept += EPOCH_STEP;
}

SEC("fexit")
int count_identified(__u64 *ctx)
{
	struct target_counts *target = target_counts(), *shifted = target;
	struct net_device *device;

	if (!target)
		return 0;
	device = packet_of(ctx)->rxq->dev;
	if (find_own(&shifted, device, true))
		return 0;
	test.identified++;
	record_of(device, target, false, true);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
