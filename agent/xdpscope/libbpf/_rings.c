/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the records of bpf/sessions/capture.bpf.c from one ring for each CPU, in the order of time. Part of
 * the bindings: cffi releases the GIL around each call.
 *
 * Ring: Documentation/bpf/ringbuf.rst, include/uapi/linux/bpf.h (BPF_RINGBUF_*).
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "capture.h"

struct ring {
	uint64_t *consumer;
	uint64_t *producer;
	uint8_t *data;
	const struct capture_record *head; /* the next record; NULL: none */
};

struct xdpscope_rings {
	int count;
	size_t size; /* of each, a power of two */
	int active; /* rings with a head: the first ones of `order` */
	int *order;
	struct ring rings[];
};

static void xdpscope_rings_free(struct xdpscope_rings *rings)
{
	size_t page = sysconf(_SC_PAGESIZE);

	for (int i = 0; i < rings->count; i++) {
		munmap(rings->rings[i].consumer, page);
		munmap(rings->rings[i].producer, page + 2 * rings->size);
	}
	free(rings->order);
	free(rings);
}

/* Maps the rings. Returns NULL with errno set if that fails. */
static struct xdpscope_rings *xdpscope_rings_new(const int *maps, int count, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct xdpscope_rings *rings;

	rings = calloc(1, sizeof(*rings) + count * sizeof(struct ring));
	if (!rings)
		return NULL;
	rings->size = size;
	rings->order = calloc(count, sizeof(*rings->order));
	for (int i = 0; rings->order && i < count; i++) {
		struct ring *ring = &rings->rings[i];

		ring->consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, maps[i], 0);
		if (ring->consumer == MAP_FAILED)
			goto failed;
		/* The kernel maps the data twice, so that no record is cut in two. */
		ring->producer = mmap(NULL, page + 2 * size, PROT_READ, MAP_SHARED, maps[i], page);
		if (ring->producer == MAP_FAILED) {
			munmap(ring->consumer, page);
			goto failed;
		}
		ring->data = (uint8_t *)ring->producer + page;
		rings->count++;
	}
	if (rings->order)
		return rings;
failed:
	xdpscope_rings_free(rings);
	return NULL;
}

static uint64_t record_room(uint32_t size)
{
	size &= ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
	return (size + BPF_RINGBUF_HDR_SZ + 7) & ~7ULL;
}

static uint32_t *header_at(const struct xdpscope_rings *rings, const struct ring *ring)
{
	return (uint32_t *)(ring->data + (*ring->consumer & (rings->size - 1)));
}

static void find_head(const struct xdpscope_rings *rings, struct ring *ring)
{
	ring->head = NULL;
	while (*ring->consumer < __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE)) {
		uint32_t *header = header_at(rings, ring);
		uint32_t size = __atomic_load_n(header, __ATOMIC_ACQUIRE);

		if (size & BPF_RINGBUF_BUSY_BIT)
			return;
		if (!(size & BPF_RINGBUF_DISCARD_BIT)) {
			ring->head = (void *)((uint8_t *)header + BPF_RINGBUF_HDR_SZ);
			return;
		}
		__atomic_store_n(ring->consumer, *ring->consumer + record_room(size),
				 __ATOMIC_RELEASE);
	}
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* Starts a pass over all rings. */
static void begin(struct xdpscope_rings *rings)
{
	rings->active = 0;
	for (int i = 0; i < rings->count; i++) {
		find_head(rings, &rings->rings[i]);
		if (rings->rings[i].head)
			rings->order[rings->active++] = i;
	}
}

/*
 * The ring with the earliest record before `until`; NULL if there is none. *at is its place in `order`.
 * A later record waits: another CPU may still be about to hand over an earlier one.
 */
static struct ring *earliest(struct xdpscope_rings *rings, uint64_t until, int *at)
{
	struct ring *found = NULL;

	for (int i = 0; i < rings->active; i++) {
		struct ring *ring = &rings->rings[rings->order[i]];

		if (ring->head->time < until && (!found || ring->head->time < found->head->time)) {
			found = ring;
			*at = i;
		}
	}
	return found;
}

static void consume(struct xdpscope_rings *rings, struct ring *ring, int at)
{
	uint32_t size = *header_at(rings, ring);

	__atomic_store_n(ring->consumer, *ring->consumer + record_room(size), __ATOMIC_RELEASE);
	find_head(rings, ring);
	if (!ring->head)
		rings->order[at] = rings->order[--rings->active];
}

static size_t size_of(const struct capture_record *record)
{
	return (sizeof(*record) + record->captured + 7) & ~7ULL;
}

/* A packet at one point of capture. */
struct packet {
	struct capture_record record;
	const uint8_t *bytes;
};

#define RING_FLAGS (CAPTURE_PAIR | CAPTURE_KEPT | CAPTURE_LATE)

/* Splits a record of a ring into its packets, of which it has one or two. Returns how many. */
static int packets_of(const struct capture_record *record, struct packet packets[2])
{
	const uint8_t *bytes = (const uint8_t *)(record + 1);
	struct packet *last = &packets[0];

	if (record->flags & CAPTURE_PAIR) {
		struct capture_arrival arrival = { record->length, record->captured };

		packets[0].record = *record;
		packets[0].record.time -= record->inside;
		packets[0].record.point = CAPTURE_ENTRY;
		packets[0].record.flags &= ~RING_FLAGS;
		if (!(record->flags & CAPTURE_LATE)) {
			packets[0].record.flags &= ~(CAPTURE_VERDICT | CAPTURE_INSIDE);
			packets[0].record.verdict = 0;
			packets[0].record.inside = 0;
		}
		packets[0].bytes = bytes;
		if (record->flags & CAPTURE_KEPT) {
			memcpy(&arrival, bytes, sizeof(arrival));
			packets[0].bytes = bytes + sizeof(arrival);
			bytes = packets[0].bytes + arrival.captured;
		}
		packets[0].record.length = arrival.length;
		packets[0].record.captured = arrival.captured;
		last = &packets[1];
	}
	last->record = *record;
	last->record.flags &= ~RING_FLAGS;
	last->bytes = bytes;
	return last - packets + 1;
}

/*
 * Copies the records of packets, each rounded up to 8 bytes, to `to`. Returns how many bytes that are.
 *
 * all: take records of this moment too, because no more will come.
 */
static size_t xdpscope_rings_read(struct xdpscope_rings *rings, uint8_t *to, size_t room, int all)
{
	uint64_t until = all ? UINT64_MAX : clock_ns(CLOCK_MONOTONIC);
	struct ring *ring;
	size_t used = 0;
	int at;

	begin(rings);
	while ((ring = earliest(rings, until, &at))) {
		struct packet packets[2];
		int count = packets_of(ring->head, packets);
		size_t needed = 0;

		for (int i = 0; i < count; i++)
			needed += size_of(&packets[i].record);
		if (used + needed > room)
			break;
		for (int i = 0; i < count; i++) {
			const struct capture_record *record = &packets[i].record;

			memcpy(to + used, record, sizeof(*record));
			memcpy(to + used + sizeof(*record), packets[i].bytes, record->captured);
			used += size_of(record);
		}
		consume(rings, ring, at);
	}
	return used;
}
