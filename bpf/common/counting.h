/* SPDX-License-Identifier: GPL-2.0-only */
/* Counting at the exit of a target, and identifying the device of a packet. */
#ifndef __XDPSCOPE_COUNTING_H
#define __XDPSCOPE_COUNTING_H

#include "packet_access.h"
#include "xdpscope.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct target_counts);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, DEVICES_OVERFLOW);
	__type(key, struct overflow_key);
	__type(value, struct device_counts);
} overflow SEC(".maps");

/*
 * The epoch: a number that advances whenever a device appears in a network namespace. While
 * it does not change, an address of a net_device means the same device. To become another
 * device, or to enter another namespace, it would have to appear first.
 *
 * A record remembers the sum of an address and `kept`. It is compared with the sum of an
 * address and `now`: one comparison for both.
 *
 * The step is 2^64 divided by the golden ratio, whose multiples stay furthest from 0. For
 * addresses less than 2^46 apart, the sums of two epochs differ until 100,000 devices have
 * appeared in between.
 *
 * `now` and `kept` are equal, except while the agent knows that device_appears() does not
 * run. Then they are 2^63 apart, no record seems current, and the device of each packet is
 * identified.
 */
#define EPOCH_STEP 0x9e3779b97f4a7c15

SEC(".data.epoch") struct {
	__u64 now;
	__u64 kept;
} epoch;

/* Its `key` is the key of the only element of `counts`: cheaper here than on the stack. */
SEC(".data.control") struct control control = { .latency_rate = 1 };

/* The same key, also in a handover. */
__u32 only;

/*
 * So many devices more may get a record in `overflow` before the agent reads it again. The agent
 * deletes records of devices that are gone. While no agent runs, nobody does, and a pinned
 * `overflow` must not grow for ever.
 */
SEC(".data.budget") __s64 budget = 1;

/*
 * Devices that no longer exist. Their slots in targets' own records may be given to others: see
 * give_slot_back(). The agent writes it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, DEVICES_GONE);
	__type(key, __u64); /* an identity */
	__type(value, __u32);
} gone SEC(".maps");

/*
 * The number of the agent's last list in `gone`. It is 0 while nothing may move: the agent
 * reads the records then.
 */
SEC(".data.vacancies") __u32 vacancies;

/* Records that moved, on any CPU. One moves now if the two differ. */
SEC(".data.moves") struct {
	__u64 started;
	__u64 done;
} moves;

/* What a record in `overflow` begins as: too large for the stack. */
struct device_counts blank;

/* A constant of 64 bits of the template. */
#define constant64(value)                                            \
	({                                                           \
		__u64 __c;                                           \
		asm volatile("%0 = %1 ll" : "=r"(__c) : "i"(value)); \
		__c;                                                 \
	})

/* Whether a number is TARGET: cheaper than `constant`, which the value would be moved through. */
static __always_inline bool is_target(__u64 number)
{
	asm goto("if %0 != %1 goto %l[other]" : : "r"(number), "i"(TARGET) : : other);
	return true;
other:
	return false;
}

/*
 * The device of a packet. It is the device where the packet arrived or, in copies of the
 * template for programs that run at egress, the device by which it leaves.
 *
 * A branch decides, not a constant: it costs no instruction. `target` is not NULL. The
 * verifier knows that (5.8), and removes the comparison with the side that never runs. The
 * agent turns == into != in copies for egress. It finds the branch by a `goto +0`, which no
 * compiler writes and which the verifier removes as well.
 */
static __always_inline struct net_device *device_of(struct xdp_buff *xdp,
						    struct target_counts *target)
{
	struct net_device *device;

	asm goto("goto +0; if %0 == 0 goto %l[leaving]" : : "r"(target) : : leaving);
	device = xdp->rxq->dev;
	asm volatile("" : "+r"(device)); /* else both sides share what comes after */
	return device;
leaving:
	device = xdp->txq->dev;
	asm volatile("" : "+r"(device));
	return device;
}

/* A test makes a device appear here. */
#ifndef BETWEEN_EPOCH_AND_IDENTITY
#define BETWEEN_EPOCH_AND_IDENTITY() barrier()
#endif

static __always_inline struct target_counts *target_counts(void)
{
	return bpf_map_lookup_elem(&counts, &control.key);
}

static __always_inline struct target_counts *target_counts_in_handover(void)
{
	return bpf_map_lookup_elem(&counts, &only);
}

/*
 * Whether an exit must not count a packet, because an exit that replaces it has counted it. The
 * new exit runs first: the kernel calls what was attached last before the others.
 */
static __always_inline bool is_handed_over(struct target_counts *target, enum way way)
{
	__u32 number = read_once(control.key);

	/* No time is measured in a handover: two entries may run. */
	target->timing.packet = 0;
	if (!number)
		return false;
	if ((number & WAY_MASK) == way) {
		target->handed_over = number;
		return false;
	}
	if (target->handed_over != number)
		return false;
	target->handed_over = 0;
	return true;
}

static __always_inline enum way way_of(bool timed)
{
	return timed ? WAY_TIMED : WAY_PLAIN;
}

/* What an exit counts into in a handover. NULL if it must not count the packet. */
static __noinline __attribute__((unused)) struct target_counts *exit_in_handover(enum way way)
{
	struct target_counts *target = target_counts_in_handover();

	return !target || is_handed_over(target, way) ? NULL : target;
}

/*
 * The kernel gives an inode number to the next namespace as soon as it is free. With
 * cookies two namespaces are never confused. Kernels have cookies since 5.12, but show them
 * to the agent only since 5.14. So the agent decides for both sides: it replaces BY_INODE
 * in copies.
 */
static __always_inline __u64 identity_of(struct net_device *device)
{
	struct net *net = device->nd_net.net;
	__u64 serial = constant(BY_INODE) == BY_INODE ? net->ns.inum : net->net_cookie;

	return serial << 32 | (__u32)device->ifindex;
}

/* Cuts a number to 32 bits by one instruction, where the compiler takes two. */
static __always_inline __u32 low_half(__u64 number)
{
	__u32 low;

	asm volatile("%0 = %1" : "=w"(low) : "w"((__u32)number));
	return low;
}

static __always_inline enum verdict verdict_of(__u64 *ctx)
{
	__u32 verdict = low_half(*(volatile __u64 *)&ctx[1]);

	return verdict > VERDICT_REDIRECT ? VERDICT_UNKNOWN : verdict;
}

/* All ones if the number is negative, else 0. */
static __always_inline __u64 sign(__u64 number)
{
	asm volatile("%0 s>>= 63" : "+r"(number));
	return number;
}

/* The lesser of two numbers below 2^63, without a branch that the verifier follows. */
static __always_inline __u64 lesser(__u64 one, __u64 other)
{
	__u64 difference = one - other;

	return other + (difference & sign(difference));
}

static __always_inline void add(struct tally *tally, __u64 length)
{
	tally->packets++;
	tally->bytes += length;
}

/* Whether a record belongs to the device, as far as one comparison can decide that. */
static __always_inline bool recognised(struct device_counts *known, struct net_device *device,
				       bool by_epoch)
{
	if (by_epoch)
		return known->mark - epoch.now == (__u64)device; /* no pointer may be added to */
	return known->identity == identity_of(device) && known->mark;
}

/*
 * Advances `*target` so that the device's record is the first of `devices`. The record must
 * be recognised by one comparison, and be one of the target's own. False if there is none.
 */
static __always_inline bool find_own(struct target_counts **target, struct net_device *device,
				     bool by_epoch)
{
	__u64 wanted = by_epoch ? (__u64)device : identity_of(device);
	__u64 now = by_epoch ? epoch.now : 0;
	struct target_counts *shifted = *target;

	for (int i = 0; i < DEVICES_INLINE; i++) {
		struct device_counts *known = &shifted->devices[0];

		__u64 found = by_epoch ? known->mark - now : known->identity;

		if (__builtin_expect(found == wanted, !i))
			break;
		if (i == DEVICES_INLINE - 1)
			return false;
		shifted = (void *)shifted + sizeof(struct device_counts);
		asm volatile("" : "+r"(shifted)); /* else each sum begins with `target` */
	}
	*target = shifted;
	return true;
}

/* Binds a record, of this CPU alone, to a device. */
static __always_inline void bind_record(struct device_counts *known, struct net_device *device,
					__u64 identity, __u64 index)
{
	bpf_probe_read_kernel(known->name, sizeof(known->name), device->name);
	known->index = index;
	known->netns = device->nd_net.net->ns.inum;
	known->identity = identity;
}

static __always_inline struct device_counts *overflow_record(__u64 identity)
{
	struct overflow_key key = { .identity = identity, .target = constant(TARGET) };

	return bpf_map_lookup_elem(&overflow, &key);
}

/* The overflow record of a device, bound or not; NULL if there can be no further one now. */
static __always_inline struct device_counts *make_overflow_record(__u64 identity)
{
	struct overflow_key key = { .identity = identity, .target = constant(TARGET) };
	struct device_counts *known = bpf_map_lookup_elem(&overflow, &key);

	if (known)
		return known;
	if (read_once(budget) <= 0)
		return NULL;
	__sync_fetch_and_add(&budget, -1);
	/* Another CPU may have been first: look it up again. */
	bpf_map_update_elem(&overflow, &key, &blank, BPF_NOEXIST);
	return bpf_map_lookup_elem(&overflow, &key);
}

static __always_inline __u64 next_overflow_index(struct target_counts *target)
{
	return lesser(DEVICES_INLINE + target->devices_overflow++, NO_INDEX);
}

/* The record of a device beyond the target's own; NULL if there can be no further one now. */
static __always_inline struct device_counts *
new_overflow_record(struct target_counts *target, struct net_device *device, __u64 identity)
{
	struct device_counts *known = make_overflow_record(identity);

	if (!known)
		return NULL;
	if (known->identity == 0)
		bind_record(known, device, identity, next_overflow_index(target));
	known->mark = OVERFLOW_IN_USE;
	return known;
}

/* Adds counters to others, and makes them 0. */
static __always_inline void move_tallies(struct tally *to, struct tally *from, int number)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < number; i++) {
		to[i].packets += from[i].packets;
		to[i].bytes += from[i].bytes;
		from[i].packets = 0;
		from[i].bytes = 0;
	}
}

/* Moves a record of the target's own to `overflow`. It is free then. */
static __always_inline bool move_to_overflow(struct target_counts *target,
					     struct device_counts *slot)
{
	struct device_counts *known = make_overflow_record(slot->identity);

	if (!known)
		return false;
	if (known->identity == 0) {
		__builtin_memcpy(known->name, slot->name, sizeof(known->name));
		known->index = next_overflow_index(target);
		known->netns = slot->netns;
		known->identity = slot->identity;
	}
	move_tallies(known->verdicts, slot->verdicts, VERDICTS);
	move_tallies(&known->unaccounted[0][0], &slot->unaccounted[0][0], REASONS * VERDICTS);
	slot->mark = 0;
	slot->identity = 0;
	target->moved++;
	return true;
}

/*
 * Frees a slot of the target whose device no longer exists. `index` of the target is the index of
 * that slot; DEVICES_INLINE if there is none.
 *
 * A device that has come back loses no packet by this. Its counts continue in `overflow`.
 */
static __noinline int give_slot_back(struct target_counts *target)
{
	__u32 number = read_once(vacancies);
	__u64 index, identity;
	bool moved = false;

	target->index = DEVICES_INLINE;
	for (int i = 0; number && i < DEVICES_INLINE; i++) {
		identity = target->devices[i].identity;
		if (bpf_map_lookup_elem(&gone, &identity)) {
			target->index = i;
			break;
		}
	}
	index = *(volatile __u64 *)&target->index;
	if (index < DEVICES_INLINE) {
		/* The agent writes `vacancies` before it reads `moves`. */
		__sync_fetch_and_add(&moves.started, 1);
		if (read_once(vacancies) == number)
			moved = move_to_overflow(target, &target->devices[index]);
		__sync_fetch_and_add(&moves.done, 1);
	}
	if (!moved) {
		target->index = DEVICES_INLINE;
		target->searched = number;
	}
	return 0;
}

/* The index of the device's place in the target's own record, or of the first that is free. */
static __always_inline void find_slot(struct target_counts *target, __u64 identity)
{
	target->index = DEVICES_INLINE;
	for (int i = 0; i < DEVICES_INLINE; i++) {
		__u64 taken = target->devices[i].identity;

		if (taken == identity || taken == 0) {
			target->index = i;
			return;
		}
	}
}

/*
 * Returns the record of any device; NULL if no slot is left for one. With `for_flows`, a device whose
 * packets do not begin with Ethernet is not recognised by one comparison the next time.
 *
 * Without `reuse`, a device gets no slot of another one that no longer exists: a fifth of the work
 * for the verifier.
 */
static __always_inline struct device_counts *
record_of(struct net_device *device, struct target_counts *target, bool for_flows, bool reuse)
{
	/* Before the identity: a device that moves in between is then identified once more. */
	__u64 current = read_once(epoch.kept);
	struct device_counts *known, *beyond = NULL;
	__u64 identity, index;

	BETWEEN_EPOCH_AND_IDENTITY();
	identity = identity_of(device);
	/* The likely slots first: `find_own` has compared the others. */
	if (target->devices[DEVICES_INLINE - 1].identity) {
		beyond = overflow_record(identity);
		if (beyond && beyond->mark && (!reuse || read_once(vacancies) == target->searched))
			return beyond;
	}
	find_slot(target, identity);
	/*
	 * Read from memory, so that the verifier follows one path from here, and not one
	 * for each value.
	 */
	index = *(volatile __u64 *)&target->index;
	if (reuse && index >= DEVICES_INLINE && read_once(vacancies) != target->searched) {
		give_slot_back(target);
		index = *(volatile __u64 *)&target->index;
	}
	if (index >= DEVICES_INLINE)
		return new_overflow_record(target, device, identity);
	if (beyond)
		beyond->mark = 0; /* from now on, the slot counts for this device */
	known = &target->devices[index];
	if (known->identity == 0)
		bind_record(known, device, identity, index);
	if (for_flows && is_layer3(device)) {
		write_once(known->mark, 0);
		return known;
	}
	write_once(known->mark, (__u64)device);
	known->mark = read_once(known->mark) + current;
	return known;
}

/* Called for every device that is registered, or moved to another namespace. */
SEC("fentry/raw_notifier_call_chain")
int BPF_PROG(device_appears, void *chain, unsigned long event)
{
	if (event != bpf_core_enum_value(enum netdev_cmd, NETDEV_REGISTER))
		return 0;
	/* The order matters: in between, no record that is bound again seems to be current. */
	__sync_fetch_and_add(&epoch.now, EPOCH_STEP);
	__sync_fetch_and_add(&epoch.kept, EPOCH_STEP);
	return 0;
}

#endif
