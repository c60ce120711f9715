// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies packets at entry and exit of one XDP program into a ring buffer for each CPU.
 *
 * The programs are templates, as those of flows.bpf.c. A target has one of these sets:
 *   capture_entry                 no verdict is needed
 *   capture_exit, capture_entry   the exit follows its entry
 *   capture_exit_only             the packet at exit is what is wanted, or is as it was at entry
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
	.late = 1,
	.paired = 1,
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

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct capture_state);
} state SEC(".maps");

/*
 * One record for each CPU: those of entries, and those of exits. User space gives them the size that
 * config.snaplen needs. They are no per-CPU maps because a value of these has at most 32 KiB.
 */
#define RECORD_SIZE (sizeof(struct capture_record) + CAPTURE_SNAPLEN + 1 + CAPTURE_PIECE)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, RECORD_SIZE);
} entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, RECORD_SIZE);
} exits SEC(".maps");

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

__u32 only;

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
	struct capture_state *now = bpf_map_lookup_elem(&state, &only);
	struct inner_packet *found;
	__u64 start;

	if (!now)
		return false;
	found = &now->inner;
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

static __always_inline bool outer_matches(struct xdp_buff *xdp, bool layer3)
{
	__u64 linear = (__u64)xdp->data_end - (__u64)xdp->data, length = linear;

	if (config.filter_length)
		length = length_of(xdp);
	if (layer3)
		return packet_filter(FILTER_RAW_IP, xdp->data, linear, length);
	return packet_filter(FILTER_ETHERNET, xdp->data, linear, length);
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

/* Makes a record of the packet as it is now. */
static __always_inline void fill(struct capture_record *record, struct xdp_buff *xdp, __u64 time,
				 __u64 id, __u32 cpu)
{
	struct net_device *device = device_of(xdp);
	__u64 linear = (__u64)xdp->data_end - (__u64)xdp->data;
	__u64 length = length_of(xdp), captured = linear;

	record->time = time;
	record->id = id;
	record->inside = 0;
	record->target = constant(CAPTURE_TARGET);
	record->ifindex = device->ifindex;
	record->netns = device->nd_net.net->ns.inum;
	record->queue = constant(CAPTURE_EGRESS) == 1 ? 0 : xdp->rxq->queue_index;
	record->verdict = 0;
	record->length = length;
	record->cpu = cpu;
	record->flags = (constant(CAPTURE_EGRESS) == 1 ? CAPTURE_LEAVES : 0) |
			(is_layer3(device) ? CAPTURE_LAYER3 : 0);
	record->zero = 0;
	asm volatile("" : "+r"(captured));
	if (captured > config.snaplen)
		captured = config.snaplen;
	if (bpf_probe_read_kernel(record + 1, captured, xdp->data))
		captured = 0;
	if (config.page_offset_base && length > linear && captured == linear)
		captured = copy_fragments(xdp, record + 1, captured);
	record->captured = captured > config.snaplen ? config.snaplen : captured;
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

static __always_inline void emit(struct capture_state *now, struct capture_record *record,
				 enum capture_point point, __u32 cpu)
{
	struct capture_counts *counts = &now->points[point];
	void *ring = bpf_map_lookup_elem(&rings, &cpu);
	__u64 captured = record->captured;

	/* Here, because older verifiers forget the bounds of a number on the stack. */
	asm volatile("" : "+r"(captured));
	if (captured > config.snaplen)
		captured = config.snaplen;
	record->point = point;
	record->lost = counts->pending;
	counts->matched++;
	/* User space polls within milliseconds: to wake it costs more. */
	if (ring &&
	    !bpf_ringbuf_output(ring, record, sizeof(*record) + captured, BPF_RB_NO_WAKEUP)) {
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
	return config.verdicts & 1U << (verdict > XDP_REDIRECT ? XDP_REDIRECT + 1 : verdict);
}

SEC("fentry")
int capture_entry(__u64 *ctx)
{
	struct xdp_buff *xdp = packet_of(ctx);
	struct capture_state *now;
	struct capture_record *record;
	__u64 time, id;
	__u32 cpu;

	if (!is_selected(xdp))
		return 0;
	now = bpf_map_lookup_elem(&state, &only);
	if (!now)
		return 0;
	cpu = bpf_get_smp_processor_id();
	if (config.paired) {
		if (config.late && read_once(now->busy)) {
			now->displaced++;
			return 0;
		}
		if (now->owner)
			now->displaced++;
		write_once(now->owner, 0);
		barrier();
	}
	time = bpf_ktime_get_ns();
	id = next_id(now, cpu);
	if (config.entry) {
		record = bpf_map_lookup_elem(&entries, &cpu);
		if (!record)
			return 0;
		fill(record, xdp, time, id, cpu);
		if (!config.late)
			emit(now, record, CAPTURE_ENTRY, cpu);
	}
	if (!config.paired)
		return 0;
	if (!config.late && read_once(now->busy)) {
		now->displaced++;
		return 0;
	}
	now->id = id;
	now->time = time;
	barrier();
	write_once(now->owner, (__u64)xdp);
	return 0;
}

static __always_inline void exit_flows(__u64 *ctx, struct capture_state *now)
{
	struct xdp_buff *xdp = packet_of(ctx);
	__u32 verdict = ctx[1], cpu = bpf_get_smp_processor_id();
	struct capture_record *record;
	__u64 time, inside, id = now->id;

	if (!is_wanted(verdict))
		return;
	time = bpf_ktime_get_ns();
	inside = time - now->time;
	if (inside < config.min_inside)
		return;
	if (config.entry && config.late) {
		record = bpf_map_lookup_elem(&entries, &cpu);
		if (record) {
			record->verdict = verdict;
			record->inside = inside;
			record->flags |= CAPTURE_VERDICT | CAPTURE_INSIDE;
			emit(now, record, CAPTURE_ENTRY, cpu);
		}
	}
	if (config.exit) {
		record = bpf_map_lookup_elem(&exits, &cpu);
		if (!record)
			return;
		fill(record, xdp, time, id, cpu);
		record->verdict = verdict;
		record->inside = inside;
		record->flags |= CAPTURE_VERDICT | CAPTURE_INSIDE;
		emit(now, record, CAPTURE_EXIT, cpu);
	}
}

SEC("fexit")
int capture_exit(__u64 *ctx)
{
	struct capture_state *now = bpf_map_lookup_elem(&state, &only);
	__u64 owner;

	if (!now)
		return 0;
	owner = read_once(now->owner);
	if (!owner) /* the entry did not match */
		return 0;
	write_once(now->busy, 1);
	barrier();
	owner = read_once(now->owner);
	write_once(now->owner, 0);
	if (owner == (__u64)packet_of(ctx))
		exit_flows(ctx, now);
	else if (owner)
		now->orphaned++;
	barrier();
	write_once(now->busy, 0);
	return 0;
}

SEC("fexit")
int capture_exit_only(__u64 *ctx)
{
	struct xdp_buff *xdp = packet_of(ctx);
	struct capture_record *record;
	struct capture_state *now;
	__u32 verdict = ctx[1], cpu;

	if (!is_wanted(verdict) || !is_selected(xdp))
		return 0;
	cpu = bpf_get_smp_processor_id();
	now = bpf_map_lookup_elem(&state, &only);
	record = bpf_map_lookup_elem(&exits, &cpu);
	if (!now || !record)
		return 0;
	fill(record, xdp, bpf_ktime_get_ns(), next_id(now, cpu), cpu);
	record->verdict = verdict;
	record->flags |= CAPTURE_VERDICT;
	if (config.entry)
		emit(now, record, CAPTURE_ENTRY, cpu);
	if (config.exit)
		emit(now, record, CAPTURE_EXIT, cpu);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
