/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records shared by the BPF programs and the agent: data and constants only.
 * The agent reads their layout from the BTF of the compiled object, so a
 * change here needs none there.
 */
#ifndef __XDPSCOPE_H
#define __XDPSCOPE_H

#define DEVICE_NAME_SIZE 16

/* Stands for the number of the target in the template. */
#define TARGET 0x7a26e7

/* Indices into the counters: the kernel's enum xdp_action, then the rest. */
enum verdict {
	VERDICT_ABORTED,
	VERDICT_DROP,
	VERDICT_PASS,
	VERDICT_TX,
	VERDICT_REDIRECT,
	VERDICT_UNKNOWN,
	VERDICTS,
};

enum limits {
	/* Devices of one target that have a place of their own in its record;
	 * what the target sees on further ones goes to the `spilled` hash.
	 */
	DEVICES_INLINE = 4,
	/* Entries in `spilled`, over all targets. */
	DEVICES_SPILLED = 65536,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/*
 * What one target did with the packets of one device, on one CPU.
 *
 * A record is bound to its device's identity once and for all; `device` and
 * `epoch` only remember by what that identity was last recognised.
 */
struct device_counts {
	__u64 device; /* struct net_device * */
	__u64 epoch;
	struct tally verdicts[VERDICTS];
	__u64 identity; /* network namespace inode << 32 | ifindex; 0: unused */
	char name[DEVICE_NAME_SIZE]; /* when first seen */
};

struct target_counts {
	struct device_counts devices[DEVICES_INLINE];
	/* Packets for which `spilled` had no place left. */
	struct tally unplaced[VERDICTS];
};

struct spill_key {
	__u64 identity;
	__u32 target;
	__u32 zero;
};

/* One XDP program, or extension of one, as the iterator writes it. */
struct program_record {
	__u32 id;
	__u32 attach_type; /* enum bpf_attach_type; 0 where the loader gave none */
	__u32 extension; /* a freplace program */
	__u32 zero;
	__u64 references; /* the iterator's own included */
};

#endif
