/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records of `xdpscope trace` and `xdpscope capture`: data and constants only.
 * The C code of the bindings and Python read the layout from here and from the object's BTF.
 */
#ifndef __XDPSCOPE_CAPTURE_H
#define __XDPSCOPE_CAPTURE_H

/* Constants of the templates, replaced in each target's copy. */
#define CAPTURE_TARGET	 0x7a26e7 /* the number of the target */
#define CAPTURE_EGRESS	 0xe6e55 /* 1 if the target sees packets where they leave, else 0 */
#define CAPTURE_KEEPS	 0x6ee95 /* 1 if the entry tracer keeps the packet for the exit, else 0 */
#define CAPTURE_CPU_MASK 211 /* the number of states, a power of two, less 1 */

enum capture_limits {
	/* Bytes of one record: at most so many of the packet (config.snaplen). */
	CAPTURE_SNAPLEN = 65535,
	/* Fragments are copied in pieces of at most this size. A longer one ends the copy. */
	CAPTURE_PIECE = 16384,
	CAPTURE_FRAGMENTS = 17,
	CAPTURE_LOSSES = 16384,
};

enum capture_point {
	CAPTURE_ENTRY,
	CAPTURE_EXIT,
	CAPTURE_POINTS,
};

enum capture_flags {
	CAPTURE_VERDICT = 1, /* `verdict` is known */
	CAPTURE_LEAVES =
		2, /* `ifindex` is the device that the packet leaves by (a devmap program) */
	CAPTURE_LAYER3 = 4, /* the packet begins with an IP header */
	CAPTURE_INSIDE = 8, /* `inside` is known */
	CAPTURE_PAIR = 16, /* a record of the packet at exit, and at entry: see below */
	CAPTURE_KEPT = 32, /* with CAPTURE_PAIR: the packet at entry may have been another */
	CAPTURE_LATE = 64, /* with CAPTURE_PAIR: verdict and time are known of the entry too */
};

/*
 * Followed by `captured` bytes of the packet.
 *
 * With CAPTURE_PAIR one record in a ring stands for both points: everything in it is that of the exit,
 * and the packet came `inside` ns before. If CAPTURE_KEPT is set, struct capture_arrival and the bytes
 * of the packet at entry come before those of the exit. Readers get two records.
 */
struct capture_record {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u64 id; /* the same at entry and exit of one packet */
	__u64 inside; /* ns from entry to exit */
	__u32 target; /* its number */
	__u32 ifindex;
	__u32 netns; /* inode */
	__u32 queue;
	__u32 verdict; /* what the program returned */
	__u32 length; /* of the whole packet, fragments included */
	__u32 captured;
	__u32 lost; /* on this CPU, at this point of this target, since the record before */
	__u16 cpu;
	__u8 point; /* enum capture_point */
	__u8 flags; /* enum capture_flags */
	__u32 zero; /* as the map has it from the beginning */
};

/* The packet at entry. */
struct capture_arrival {
	__u32 length;
	__u32 captured;
};

/* What a session captures. Constant for all its targets. */
struct capture_config {
	__u32 snaplen;
	__u32 verdicts; /* one bit for each enum xdp_action, 32 for any other value */
	__u64 min_inside; /* ns */
	__u64 page_offset_base; /* address of the variable; 0: no fragments are copied */
	__u64 vmemmap_base; /* the same */
	__u8 entry; /* emit packets as they arrive */
	__u8 exit; /* emit packets as they leave */
	__u8 paired; /* there is an exit tracer beside the entry tracer: it emits */
	__u8 flags; /* CAPTURE_PAIR and CAPTURE_LATE, of records of the exit tracer */
	__u8 decided; /* only packets with one of `verdicts` */
	__u8 selected; /* only some packets, by what follows */
	__u8 devices; /* only packets of devices in the map `devices` */
	__u8 filter; /* a packet filter is inserted */
	__u8 filter_length; /* … which reads the length of the packet */
	__u8 inner; /* a filter of packets inside tunnels is inserted */
};

/* Counts of one target on one CPU. A record of both points counts once. */
struct capture_counts {
	__u64 matched; /* records to be emitted */
	__u64 captured; /* emitted */
	__u64 lost; /* not emitted: the ring was full */
	__u64 pending; /* lost since the last one that was emitted */
};

enum inner_kind {
	INNER_NONE,
	INNER_ETHERNET,
	INNER_IP,
};

/* The packet inside a tunnel: see tunnel.h. */
struct inner_packet {
	__u64 kind; /* enum inner_kind */
	__u64 start; /* its offset in the packet */
	__u64 linear; /* its bytes in the first part of the packet */
	__u64 length; /* its bytes in the whole packet */
};

/*
 * A target's state on one CPU: the packet that is inside it now, and counts.
 *
 * Packets can preempt each other on one CPU (PREEMPT_RT; a test run). The kernel then skips a tracer
 * that is already running there. So entry and exit may run inside each other, but neither inside
 * itself. The exit sets `busy` before it reads `owner`. An entry that finds `busy` set leaves the
 * packet inside the target alone.
 */
struct capture_state {
	__u64 owner; /* address of the packet's struct xdp_buff; 0: none */
	__u64 id;
	__u64 time;
	__u64 busy;
	__u64 sequence; /* of ids, of the entry tracer */
	__u64 displaced; /* packets whose exit cannot be recognised: counted by the entry tracer */
	__u64 orphaned; /* the same, counted by the exit tracer */
	struct capture_counts counts;
	struct capture_arrival arrival; /* of that packet */
	struct inner_packet inner; /* of the packet that a filter sees now */
};

struct capture_device {
	__u32 netns;
	__u32 ifindex;
};

struct capture_loss {
	__u32 target;
	__u32 point;
	__u32 netns;
	__u32 ifindex;
};

#endif
