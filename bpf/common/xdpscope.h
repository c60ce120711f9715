/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records shared by the BPF programs and the agent: data and constants only.
 * The agent reads their layout from the BTF of the compiled object, so a
 * change here needs none there.
 */
#ifndef __XDPSCOPE_H
#define __XDPSCOPE_H

#define DEVICE_NAME_SIZE   16
#define REPLACED_NAME_SIZE 64

/*
 * Constants of the templates. The agent loads each copy with others in their place.
 */
#define TARGET	  0x7a26e7 /* the number of the target */
#define BY_INODE  0x1de0de /* namespaces are identified by inode; any other: by cookie */
#define SET_SHIFT 61 /* leaves of a hash the number of a set */
/* Odd and secret, so that nobody can choose flows that share a set. */
#define HASH_FIRST  0x9e3779b97f4a7c15
#define HASH_SECOND 0xc2b2ae3d27d4eb4f

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

/* What the new programs of a handover do: the last bits of its number. */
enum way {
	WAY_PLAIN,
	WAY_TIMED,
	WAY_SAMPLED_OUT,
	WAY_MASK,
};

/* Why a packet is in no flow. */
enum reason {
	REASON_NOT_IP,
	REASON_TRUNCATED,
	REASON_SAMPLED_OUT, /* or its entry was not seen */
	REASON_TABLE_FULL,
	REASONS,
};

enum limits {
	/*
	 * Devices of one target that have a slot of their own in its record. Packets on
	 * further devices count in the hash `overflow`.
	 */
	DEVICES_INLINE = 4,
	/* Entries in `overflow`, over all targets. */
	DEVICES_OVERFLOW = 65536,
	/* Devices in `gone`. */
	DEVICES_GONE = 16384,
	/* The `mark` of a record in `overflow` that counts for its device. It is 0 if the device has
	 * a slot.
	 */
	OVERFLOW_IN_USE = 1,
	/* An `index` that stands for none. It has 21 bits: see struct flow4_key. */
	NO_INDEX = 0x1fffff,
	/* Flows that share a hash value. */
	FLOW_WAYS = 4,
	/* Bucket n counts times of up to 2^n ns, and the last one all longer times too. */
	TIME_BUCKETS = 32,
};

struct tally {
	__u64 packets;
	__u64 bytes;
};

/*
 * The packets of one device at one target, on one CPU. A record in `overflow` is bound to its
 * device's identity for ever. A slot of the target's own is bound to it until the device no longer
 * exists, and another device needs the slot. `mark` only remembers how that identity was last
 * recognised.
 */
struct device_counts {
	/* The device's address and the epoch, added up; 0 with flows, if packets do not begin with
	 * Ethernet
	 */
	__u64 mark;
	struct tally verdicts[VERDICTS];
	/* The network namespace's cookie, or its inode where there is none, << 32 | ifindex;
	 * 0: unused
	 */
	__u64 identity;
	char name[DEVICE_NAME_SIZE]; /* when first seen */
	__u32 index; /* how flows refer to this record, of this target on this CPU */
	__u32 netns; /* the namespace's inode */
	struct tally unaccounted[REASONS][VERDICTS]; /* packets in no flow */
};

/* The type of a packet at its entry. */
enum entry_kind {
	ENTRY_IPV4 = 1,
	ENTRY_IPV6,
	ENTRY_NOT_IP, /* from here on as enum reason */
	ENTRY_TRUNCATED,
	ENTRY_NONE, /* sampled out, or not seen */
	ENTRY_LEFT_OUT, /* the same, until an exit without entry counts this packet */
};

/*
 * A flow's key. The bytes are the packet's: addresses and ports in network order. An ICMP
 * message has its type and code as ports.
 */
struct flow4_key {
	__be32 destination;
	__be16 ports[2]; /* source, destination */
	/* The exit adds the verdict in the lower three bits, and the index of the device's record:
	 * its upper five bits here, the others in `device`.
	 */
	__u8 verdict;
	__u8 protocol;
	__u16 device;
	__be32 source;
};

struct flow6_key {
	__u8 source[16];
	__u8 destination[16];
	__be16 ports[2];
	__u8 verdict;
	__u8 protocol;
	__u16 device;
};

union flow_key {
	struct flow4_key v4;
	struct flow6_key v6;
	__u64 words[5];
};

/*
 * The offset that is added in `owner` to the address of a packet's struct xdp_buff: how its
 * key was made. The address is a multiple of eight.
 */
enum owner_offset {
	OWNER_IPV4, /* the short way */
	OWNER_IPV6,
	OWNER_OTHER, /* see `kind` */
};

/*
 * The packet that is inside the target now, on this CPU. `owner` tells the exit whether the
 * key belongs to its own packet.
 *
 * Where packets can preempt each other on one CPU (PREEMPT_RT), other entries and exits run
 * at any point in between. They never run inside a program of the same kind: the kernel
 * skips these. So the entry clears `owner` before it writes the key, and sets it
 * afterwards. The exit checks `owner` after it has read the key.
 */
struct entry {
	__u64 owner;
	union flow_key key;
	/*
	 * Ethernet types whose packets may take the fast path. It is 0 until one packet was
	 * seen to begin with Ethernet, and 0 for ever once a packet was seen that does not.
	 */
	__be16 short4, short6;
	__u32 layer3; /* whether there ever was such a packet */
	__u16 kind; /* enum entry_kind, for OWNER_OTHER; 0: there never was one */
	__u16 counted; /* set by an exit without entry, if exit_verdicts_* must know */
	__u32 skip; /* packets not to be taken before the next one */
	__u64 sample_at; /* which of the last packets was taken, of as many as the sample rate */
};

/*
 * When the packet that is measured entered the target, on this CPU. An exit uses only the time of
 * its own entry: `packet` is the address of its struct xdp_buff, and since then no other packet
 * was skipped. The order of reads and writes is that of `owner` in struct entry.
 */
struct timing {
	__u64 packet; /* 0: none */
	__u64 started; /* nanoseconds */
	__u32 skip; /* packets not to be measured before the next one */
	__u32 skip_after; /* the same when `packet` entered */
	__u32 sample_at; /* which of the last latency_rate packets was measured */
	__u64 total; /* nanoseconds in all buckets */
	__u64 buckets[TIME_BUCKETS];
};

struct target_counts {
	struct entry entry;
	struct device_counts devices[DEVICES_INLINE];
	__u64 devices_overflow; /* records ever bound in `overflow`: gives each its index */
	/*
	 * For the present packet, if it is not a usual one. The verifier knows nothing of
	 * values in memory, and so follows one path instead of one for each value.
	 */
	__u64 index;
	__u64 reason;
	/* Where the sets of this CPU begin: 0 in per-CPU tables of flows. */
	__u64 first_set;
	/* Packets for which `overflow` had no place left. */
	struct tally unplaced[VERDICTS];
	struct timing timing;
	/* The last handover in which an exit of the new programs counted a packet: see struct control. */
	__u32 handed_over;
	__u32 searched; /* the number in `vacancies` at which no slot was found to be given back */
	__u64 moved; /* records that moved from a slot of this CPU to `overflow` */
};

/*
 * One for all CPUs and targets. Only the agent writes it.
 *
 * The keys are those of the only element of `counts`, 0, or any other number, by which a program
 * finds NULL. Then it goes another way. That costs nothing at other times: the verifier wants the
 * check for NULL in any case.
 *
 * In a handover, new programs of a target replace others while packets pass. Neither key is 0
 * then, so that every program takes a slow path. There, only one of two exits counts a packet.
 */
struct control {
	__u32 key; /* 0. In a handover: its number */
	__u32 unsampled_key; /* for programs that take each packet: not 0 while packets are sampled */
	__u32 handovers; /* the number of the last one; its last bits are an enum way */
	__u32 latency_rate; /* times: one of this many packets */
};

/*
 * Flows of one hash value, on one CPU. Its ways are used in their order, and none becomes
 * free again. A reader on another CPU reads the members of a set in their order: `done`
 * equals `started` if no flow was inserted during the read.
 */
struct flow4 {
	__u64 key[2]; /* struct flow4_key */
	__u32 target; /* its number; 0: unused */
	__u32 stale; /* packets that no longer speak for the flow: more and more of them */
	__u64 packets;
	__u64 bytes;
};

struct flow6 {
	__u64 key[5]; /* struct flow6_key */
	__u32 target;
	__u32 stale;
	__u64 packets;
	__u64 bytes;
};

struct flow_set4 {
	__u64 done; /* flows put in */
	struct flow4 flows[FLOW_WAYS];
	__u64 started;
};

struct flow_set6 {
	__u64 done;
	struct flow6 flows[FLOW_WAYS];
	__u64 started;
};

struct overflow_key {
	__u64 identity;
	__u32 target;
	__u32 zero;
};

/* One XDP program, or an extension of one, as the iterator writes it. */
struct program_record {
	__u32 id;
	__u32 attach_type; /* enum bpf_attach_type; 0 where the loader gave none */
	__u32 extension; /* a freplace program */
	__u32 at_egress; /* sees packets at egress: the program, or its target, is for a devmap */
	/*
	 * For an extension that is not attached yet: its target program and function; else
	 * 0.
	 */
	__u32 target;
	__u32 function; /* its type in the target's BTF; also of an extension that is attached */
	__u32 offloaded; /* a network card runs it */
	__u32 zero;
	/* For a program that this host does not allow the agent to open: */
	__u8 tag[8];
	char name[16];
	char replaced[REPLACED_NAME_SIZE]; /* that function's name, of an extension only */
	__u64 references; /* the iterator's own included */
};

/* One program behind an entry of a map, as the iterator writes it. */
struct entry_record {
	__u32 map_id;
	__u32 map_type; /* enum bpf_map_type */
	__u32 program_id;
	/* For an entry of a devmap: the device by which packets leave; else 0. */
	__u32 ifindex;
	__u32 netns; /* inode */
	char device[DEVICE_NAME_SIZE];
	__u32 serial; /* of the namespace, as in `identity` of struct device_counts */
};

/* What an outcome belongs to. Devices are (namespace's serial number << 32 | ifindex). */
struct outcome_key {
	__u64 from; /* a device, or the id of a cpumap */
	__u64 to; /* a device, else 0 */
	__u32 program; /* its id, else 0 */
	__s32 code; /* an errno, a verdict, or enum cpumap_side */
};

enum cpumap_side {
	CPUMAP_ENQUEUE,
	CPUMAP_KTHREAD,
};

struct outcome_device {
	__u32 netns; /* inode */
	char name[DEVICE_NAME_SIZE];
};

/* Packets of one key on one CPU. The names are those of the CPU that was first, else empty. */
struct outcome {
	__u64 succeeded;
	__u64 failed;
	struct outcome_device from;
	struct outcome_device to;
	char program[16]; /* cut by the kernel */
};

/* One for all CPUs. The agent writes it once, before a tracepoint is attached. */
struct outcome_state {
	__u64 lost; /* packets for which a map had no room */
	__u64 by_cookie; /* namespaces are identified by cookie, else by inode */
};

#endif
