// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies packets at entry and exit of one XDP program into a ring buffer for each CPU.
 *
 * The programs are templates, as those of flows.bpf.c. A target has one of these sets:
 *   capture_entry                 no verdict is needed
 *   capture_exit, capture_entry   the exit follows its entry
 *   capture_exit_only             the packet at exit is what is wanted, or is as it was at entry
 * Those with a filter may have capture_entry_quick and capture_exit_only_quick instead.
 */
#include "vmlinux.h"
#include "capture.h"
#include "packet_access.h"
#include "packet_filter.h"
#include "tunnel.h"

/* Set before the object is loaded; the verifier removes what it makes unreachable. */
const volatile struct capture_config config = {
	.snaplen = CAPTURE_SNAPLEN,
	.verdicts = ~0U,
	.entry = 1,
	.exit = 1,
	.paired = 1,
	.decided = 1,
	.selected = 1,
	.devices = 1,
	.filter = 1,
	.filter_length = 1,
	.inner = 1,
};

/* One ring for each CPU: a ring that many CPUs write to is ten times slower. */
struct ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__array(values, struct ring);
} rings SEC(".maps");

/*
 * One for each CPU. Each target has its own, of another size: a program finds its state without a call, and
 * without a lookup.
 */
struct capture_state states[CAPTURE_CPU_MASK + 1] SEC(".data.states");

/*
 * A record for each CPU. User space gives them the size that config.snaplen needs. It is no per-CPU map
 * because a value of these has at most 32 KiB.
 */
#define RECORD_SIZE                                                                         \
	(sizeof(struct capture_record) + sizeof(struct capture_arrival) + CAPTURE_SNAPLEN + \
	 CAPTURE_SNAPLEN + 1 + CAPTURE_PIECE)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, RECORD_SIZE);
} records SEC(".maps");

/* The devices that a session is limited to. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CAPTURE_LOSSES);
	__type(key, struct capture_device);
	__type(value, __u32);
} devices SEC(".maps");

/* Packets lost, by device: written only when one is lost. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CAPTURE_LOSSES);
	__type(key, struct capture_loss);
	__type(value, __u64);
} losses SEC(".maps");

static __always_inline struct capture_state *state_of(__u64 cpu)
{
	struct capture_state *found;

	asm volatile("%0 &= %1" : "+r"(cpu) : "i"(CAPTURE_CPU_MASK));
	found = &states[cpu];
	/* Else the compiler finds it again at each use. */
	asm volatile("" : "+r"(found));
	return found;
}

static __always_inline struct net_device *device_of(struct xdp_buff *xdp)
{
	struct net_device *device;

	if (constant(CAPTURE_EGRESS) == 1) {
		device = xdp->txq->dev;
		asm volatile("" : "+r"(device));
		return device;
	}
	device = xdp->rxq->dev;
	asm volatile("" : "+r"(device));
	return device;
}

/* As a number: newer verifiers bound what may be added to a pointer. */
static __noinline int locate_inner(struct xdp_buff *xdp, struct inner_packet *found, bool layer3)
{
	__u64 linear = (__u64)xdp->data_end - (__u64)xdp->data;

	find_inner((__u64)BPF_CORE_READ(xdp, data), linear, length_of(xdp), layer3, found);
	return 0;
}

/* Whether the packet is a tunnel's, and the packet inside matches. */
static __always_inline bool inner_matches(struct xdp_buff *xdp, bool layer3)
{
	struct inner_packet *found = &state_of(bpf_get_smp_processor_id())->inner;
	__u64 start;

	locate_inner(xdp, found, layer3);
	/* From memory, so that the verifier follows one path from here, and not one a tunnel. */
	barrier();
	start = found->start;
	if (start > INNER_START)
		return false;
	if (found->kind == INNER_ETHERNET)
		return packet_filter(INNER_FILTER_ETHERNET, xdp->data + start, found->linear,
				     found->length);
	if (found->kind == INNER_IP)
		return packet_filter(INNER_FILTER_RAW_IP, xdp->data + start, found->linear,
				     found->length);
	return false;
}

/* In assembler: a compiler would read a pointer that it also needs as a number twice. */
static __always_inline __u64 bytes_between(const void *data, const void *end)
{
	asm volatile("%0 -= %1" : "+r"(end) : "r"(data));
	return (__u64)end;
}

static __always_inline bool outer_matches(struct xdp_buff *xdp, bool layer3)
{
	const void *data = xdp->data;
	__u64 linear = bytes_between(data, xdp->data_end), length = 0;

	if (config.filter_length)
		length = length_of(xdp);
	if (layer3)
		return packet_filter(FILTER_RAW_IP, data, linear, length);
	return packet_filter(FILTER_ETHERNET, data, linear, length);
}

static __always_inline bool is_selected(struct xdp_buff *xdp)
{
	if (config.devices) {
		struct net_device *device = device_of(xdp);
		struct capture_device key = {
			.netns = device->nd_net.net->ns.inum,
			.ifindex = device->ifindex,
		};

		if (!bpf_map_lookup_elem(&devices, &key))
			return false;
	}
	if (config.filter && !outer_matches(xdp, is_layer3(device_of(xdp))))
		return false;
	return !config.inner || inner_matches(xdp, is_layer3(device_of(xdp)));
}

/* include/linux/skbuff.h: before 6.9 the first member points to a page, since then it is a netmem_ref. */
struct fragment {
	__u64 page;
	__u32 length;
	__u32 offset;
};

/*
 * Copies the fragments of a multi-buffer packet behind the `done` bytes that are there. Returns how many
 * bytes are there then: a prefix of the packet.
 *
 * The page of a fragment is found as page_address() does on x86.
 */
static __noinline __u64 copy_fragments(struct xdp_buff *xdp, void *bytes, __u64 done)
{
	__u64 base, pages, info, count;
	struct fragment fragment;
	__u8 number = 0;

	/* As a number: newer verifiers bound what may be added to a pointer. */
	info = (__u64)BPF_CORE_READ(xdp, data_hard_start) + xdp->frame_sz -
	       (bpf_core_type_size(struct skb_shared_info) + 63) / 64 * 64;
	if (bpf_probe_read_kernel(&base, sizeof(base), (void *)config.page_offset_base) ||
	    bpf_probe_read_kernel(&pages, sizeof(pages), (void *)config.vmemmap_base) ||
	    bpf_probe_read_kernel(&number, sizeof(number),
				  (void *)info +
					  bpf_core_field_offset(struct skb_shared_info, nr_frags)))
		return done;
	count = number;
	info += bpf_core_field_offset(struct skb_shared_info, frags);
	for (__u32 i = 0; i < CAPTURE_FRAGMENTS; i++) {
		__u64 length;

		if (i >= count || done >= config.snaplen ||
		    bpf_probe_read_kernel(&fragment, sizeof(fragment),
					  (void *)info + i * sizeof(fragment)))
			break;
		if (fragment.page & 1) /* memory of a device */
			break;
		length = fragment.length;
		if (length > CAPTURE_PIECE)
			length = CAPTURE_PIECE;
		if (bpf_probe_read_kernel(bytes + done, length,
					  (void *)base + fragment.offset +
						  (fragment.page - pages) /
							  bpf_core_type_size(struct page) * 4096))
			break;
		done += length;
		if (length != fragment.length)
			break;
	}
	return done;
}

static __always_inline bool has_fragments(struct xdp_buff *xdp)
{
	return bpf_core_field_exists(xdp->flags) &&
	       xdp->flags & bpf_core_enum_value(enum xdp_buff_flags, XDP_FLAGS_HAS_FRAGS);
}

/* Copies the packet as it is now; returns how many bytes, and its whole length. */
static __always_inline __u64 copy_packet(struct xdp_buff *xdp, void *bytes, __u64 *length)
{
	const void *data = xdp->data;
	__u64 linear = bytes_between(data, xdp->data_end), captured = linear;
	bool whole = !has_fragments(xdp);

	*length = whole ? linear : length_of(xdp);
	asm volatile("" : "+r"(captured));
	if (captured > config.snaplen)
		captured = config.snaplen;
	if (bpf_probe_read_kernel(bytes, captured, data))
		captured = 0;
	if (config.page_offset_base && !whole && captured == linear)
		captured = copy_fragments(xdp, bytes, captured);
	return captured;
}

static __noinline int note_loss(struct capture_record *record)
{
	struct capture_loss key = {
		.target = record->target,
		.point = record->point,
		.netns = record->netns,
		.ifindex = record->ifindex,
	};
	__u64 *found = bpf_map_lookup_elem(&losses, &key), none = 0;

	if (!found) {
		bpf_map_update_elem(&losses, &key, &none, BPF_NOEXIST);
		found = bpf_map_lookup_elem(&losses, &key);
	}
	if (found)
		*found += 1;
	return 0;
}

/*
 * Emits a record of the packet as it is now, or of its arrival if that is what is wanted and the
 * target may have altered it since. The caller has filled in what else it knows.
 */
static __always_inline void emit(struct capture_state *now, struct capture_record *record,
				 struct xdp_buff *xdp, __u32 cpu, __u8 flags)
{
	struct capture_counts *counts = &now->counts;
	const bool kept = constant(CAPTURE_KEEPS) == 1;
	__u64 length, captured, before = 0, size = sizeof(*record);
	struct net_device *device;
	void *ring;

	record->target = constant(CAPTURE_TARGET);
	record->lost = counts->pending;
	record->cpu = cpu;
	if (constant(CAPTURE_EGRESS) == 1) {
		device = xdp->txq->dev;
		asm volatile("" : "+r"(device));
		record->queue = 0;
		flags |= CAPTURE_LEAVES;
	} else {
		struct xdp_rxq_info *from = xdp->rxq;

		asm volatile("" : "+r"(from));
		device = from->dev;
		record->queue = from->queue_index;
	}
	record->ifindex = device->ifindex;
	record->netns = device->nd_net.net->ns.inum;
	if (is_layer3(device))
		flags |= CAPTURE_LAYER3;
	if (kept && config.exit)
		flags |= CAPTURE_KEPT;
	record->flags = flags;
	if (kept) {
		before = now->arrival.captured;
		/* From memory: the verifier knows no bounds. */
		asm volatile("" : "+r"(before));
		if (before > config.snaplen)
			before = config.snaplen;
	}
	if (kept && !config.exit) {
		length = now->arrival.length;
		captured = before;
		before = 0;
	} else {
		void *bytes = record + 1;

		if (kept) {
			*(struct capture_arrival *)bytes = now->arrival;
			before += sizeof(struct capture_arrival);
			bytes += before;
		}
		captured = copy_packet(xdp, bytes, &length);
		/* Older verifiers forget the bounds of what a function returned. */
		asm volatile("" : "+r"(captured));
		if (captured > config.snaplen)
			captured = config.snaplen;
	}
	record->length = length;
	record->captured = captured;
	size += before + captured;
	counts->matched++;
	ring = bpf_map_lookup_elem(&rings, &cpu);
	/* User space polls within milliseconds: to wake it costs more. */
	if (ring && !bpf_ringbuf_output(ring, record, size, BPF_RB_NO_WAKEUP)) {
		counts->captured++;
		counts->pending = 0;
	} else {
		counts->lost++;
		counts->pending++;
		note_loss(record);
	}
}

static __always_inline __u64 next_id(struct capture_state *now, __u32 cpu)
{
	return (__u64)constant(CAPTURE_TARGET) << 48 | (__u64)cpu << 36 |
	       (++now->sequence & 0xfffffffff);
}

static __always_inline bool is_wanted(__u32 verdict)
{
	return !config.decided ||
	       config.verdicts & 1U << (verdict > XDP_REDIRECT ? XDP_REDIRECT + 1 : verdict);
}

/* Keeps the packet as it arrives for the exit. */
static __always_inline void keep_arrival(struct capture_state *now, struct xdp_buff *xdp, __u32 cpu)
{
	void *bytes = bpf_map_lookup_elem(&records, &cpu);
	__u64 length;

	if (!bytes)
		return;
	bytes += sizeof(struct capture_record);
	if (config.exit)
		bytes += sizeof(struct capture_arrival);
	now->arrival.captured = copy_packet(xdp, bytes, &length);
	now->arrival.length = length;
}

/* A packet enters the target. */
static __noinline int enter(__u64 *ctx)
{
	struct xdp_buff *xdp = packet_of(ctx);
	struct capture_record *record;
	struct capture_state *now;
	__u32 cpu;

	if (config.selected && !is_selected(xdp))
		return 0;
	cpu = bpf_get_smp_processor_id();
	now = state_of(cpu);
	if (!config.paired) {
		record = bpf_map_lookup_elem(&records, &cpu);
		if (!record)
			return 0;
		record->time = bpf_ktime_get_ns();
		record->id = next_id(now, cpu);
		record->inside = 0;
		record->verdict = 0;
		record->point = CAPTURE_ENTRY;
		emit(now, record, xdp, cpu, 0);
		return 0;
	}
	if (read_once(now->busy)) {
		now->displaced++;
		return 0;
	}
	if (now->owner)
		now->displaced++;
	write_once(now->owner, 0);
	barrier();
	if (constant(CAPTURE_KEEPS) == 1)
		keep_arrival(now, xdp, cpu);
	now->id = next_id(now, cpu);
	now->time = bpf_ktime_get_ns();
	barrier();
	write_once(now->owner, (__u64)xdp);
	return 0;
}

/* The packet that entered leaves. */
static __always_inline void leave(__u64 *ctx, struct capture_state *now)
{
	__u32 verdict = ctx[1], cpu;
	struct capture_record *record;
	__u64 time, inside;

	if (!is_wanted(verdict))
		return;
	time = bpf_ktime_get_ns();
	inside = time - now->time;
	if (inside < config.min_inside)
		return;
	cpu = bpf_get_smp_processor_id();
	record = bpf_map_lookup_elem(&records, &cpu);
	if (!record)
		return;
	record->time = config.exit ? time : now->time;
	record->id = now->id;
	record->inside = inside;
	record->verdict = verdict;
	record->point = config.exit ? CAPTURE_EXIT : CAPTURE_ENTRY;
	emit(now, record, packet_of(ctx), cpu, config.flags | CAPTURE_VERDICT | CAPTURE_INSIDE);
}

static __noinline int let_go(__u64 *ctx, struct capture_state *now)
{
	__u64 owner;

	write_once(now->busy, 1);
	barrier();
	owner = read_once(now->owner);
	write_once(now->owner, 0);
	if (owner == (__u64)packet_of(ctx))
		leave(ctx, now);
	else if (owner)
		now->orphaned++;
	barrier();
	write_once(now->busy, 0);
	return 0;
}

/* The target alters no packet: the exit shows what arrived. */
static __noinline int pass(__u64 *ctx)
{
	__u32 verdict = ctx[1], cpu;
	struct capture_record *record;
	struct capture_state *now;

	if (!is_wanted(verdict) || (config.selected && !is_selected(packet_of(ctx))))
		return 0;
	cpu = bpf_get_smp_processor_id();
	now = state_of(cpu);
	record = bpf_map_lookup_elem(&records, &cpu);
	if (!record)
		return 0;
	record->time = bpf_ktime_get_ns();
	record->id = next_id(now, cpu);
	record->inside = 0;
	record->verdict = verdict;
	record->point = config.exit ? CAPTURE_EXIT : CAPTURE_ENTRY;
	emit(now, record, packet_of(ctx), cpu, CAPTURE_VERDICT);
	return 0;
}

/*
 * The programs themselves are short: most packets do not match, and go no further. They keep the context on
 * the stack, because to use a register for it costs more.
 */
SEC("fentry")
int capture_entry(__u64 *ctx)
{
	return enter(ctx);
}

SEC("fentry")
int capture_entry_quick(__u64 *ctx)
{
	__u64 *volatile kept = ctx;
	struct xdp_buff *xdp = packet_of(ctx);

	quick_filter(xdp->data, xdp->data_end);
	return enter(kept);
}

SEC("fexit")
int capture_exit(__u64 *ctx)
{
	__u64 *volatile kept = ctx;
	struct capture_state *now = state_of(bpf_get_smp_processor_id());

	if (!read_once(now->owner)) /* the entry did not match */
		return 0;
	return let_go(kept, now);
}

SEC("fexit")
int capture_exit_only(__u64 *ctx)
{
	return pass(ctx);
}

SEC("fexit")
int capture_exit_only_quick(__u64 *ctx)
{
	__u64 *volatile kept = ctx;
	struct xdp_buff *xdp = packet_of(ctx);

	if (!is_wanted(ctx[1]))
		return 0;
	quick_filter(xdp->data, xdp->data_end);
	return pass(kept);
}

char LICENSE[] SEC("license") = "GPL";
