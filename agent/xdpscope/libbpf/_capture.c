/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads the records of bpf/sessions/capture.bpf.c from one ring for each CPU, in the order of time, and writes
 * them as pcapng blocks. Part of the bindings: cffi releases the GIL around each call.
 *
 * Ring: Documentation/bpf/ringbuf.rst, include/uapi/linux/bpf.h (BPF_RINGBUF_*).
 * Blocks: draft-ietf-opsawg-pcapng, section 4.3.
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

/* pcapng */

struct interface {
	uint64_t point; /* target << 1 | enum capture_point, advanced by 1; 0: unused */
	uint64_t device; /* netns << 32 | ifindex */
	uint32_t number; /* of the interface block */
	uint64_t packets;
};

#define BUFFER_SIZE (1 << 20)
#define LARGEST	    (CAPTURE_SNAPLEN + 256) /* an enhanced packet block */

/* A packet that is kept back. */
struct block {
	uint8_t *bytes;
	uint32_t size, room;
};

struct xdpscope_writer {
	int fd;
	int counted_point; /* the point at which `limit` counts packets; -1: at any */
	uint64_t limit; /* packets; 0: none */
	uint64_t packets;
	uint64_t rotate_at; /* bytes; 0: never */
	uint64_t flushed; /* bytes of the file before the buffer's first */
	struct capture_record unknown; /* of an interface that has no block yet */
	struct interface *interfaces;
	uint32_t slots; /* a power of two */
	uint32_t known;
	/* With `history`: the last so many records, and the verdicts of all. */
	uint32_t history;
	uint32_t events; /* verdicts that drain() returns at: one bit for each, 32 for unknown ones */
	uint64_t kept; /* records put into `blocks` so far */
	struct block *blocks;
	uint64_t verdicts[6]; /* at exit, in the order of enum xdp_action, then the rest */
	size_t used, sent; /* of the buffer: bytes in it, and bytes written to the file */
	uint8_t buffer[BUFFER_SIZE];
};

enum drained {
	DRAINED,
	DRAINED_UNKNOWN, /* `unknown` needs an interface block */
	DRAINED_LIMIT,
	DRAINED_ROTATE,
	DRAINED_EVENT, /* a packet left with one of `events` */
};

static struct xdpscope_writer *xdpscope_writer_new(void)
{
	struct xdpscope_writer *writer = calloc(1, sizeof(*writer));

	if (writer) {
		writer->fd = -1;
		writer->slots = 64;
		writer->interfaces = calloc(writer->slots, sizeof(struct interface));
	}
	if (writer && !writer->interfaces) {
		free(writer);
		return NULL;
	}
	return writer;
}

static void forget(struct xdpscope_writer *writer)
{
	for (uint32_t i = 0; writer->blocks && i < writer->history; i++)
		free(writer->blocks[i].bytes);
	free(writer->blocks);
	writer->blocks = NULL;
	writer->history = 0;
}

/* Keeps the last `records` back until they are released. Returns 0 or -errno. */
static int xdpscope_writer_keep(struct xdpscope_writer *writer, uint32_t records)
{
	writer->blocks = calloc(records, sizeof(struct block));
	if (!writer->blocks)
		return -ENOMEM;
	writer->history = records;
	return 0;
}

static void xdpscope_writer_free(struct xdpscope_writer *writer)
{
	forget(writer);
	free(writer->interfaces);
	free(writer);
}

/* Starts a file; the interfaces stay. */
static void xdpscope_writer_open(struct xdpscope_writer *writer, int fd)
{
	writer->fd = fd;
	writer->flushed = writer->used = writer->sent = 0;
}

/* Writes the buffer. Returns 0 or -errno; what is not written stays. */
static int xdpscope_writer_flush(struct xdpscope_writer *writer)
{
	while (writer->sent < writer->used) {
		ssize_t done = write(writer->fd, writer->buffer + writer->sent,
				     writer->used - writer->sent);

		if (done < 0)
			return -errno;
		writer->sent += done;
	}
	writer->flushed += writer->used;
	writer->used = writer->sent = 0;
	return 0;
}

/* The size that the file has without a block that is there in part only. */
static uint64_t xdpscope_writer_whole(const struct xdpscope_writer *writer)
{
	size_t at = 0;

	for (;;) {
		uint32_t size;

		if (at + 8 > writer->sent)
			break;
		memcpy(&size, writer->buffer + at + 4, sizeof(size));
		if (at + size > writer->sent)
			break;
		at += size;
	}
	return writer->flushed + at;
}

/* Adds whole blocks. Returns 0 or -errno. */
static int xdpscope_writer_put(struct xdpscope_writer *writer, const uint8_t *blocks, size_t size)
{
	int failed = writer->used + size > BUFFER_SIZE ? xdpscope_writer_flush(writer) : 0;

	if (failed)
		return failed;
	if (size > BUFFER_SIZE)
		return -E2BIG;
	memcpy(writer->buffer + writer->used, blocks, size);
	writer->used += size;
	return 0;
}

/* The place of an interface in the table, used or not. */
static struct interface *place_of(struct interface *interfaces, uint32_t slots, uint64_t point,
				  uint64_t device)
{
	uint64_t hash = (point * 0x9e3779b97f4a7c15ULL ^ device) * 0xc2b2ae3d27d4eb4fULL;
	uint32_t at = hash >> 32;

	for (;; at++) {
		struct interface *found = &interfaces[at & (slots - 1)];

		if (!found->point || (found->point == point && found->device == device))
			return found;
	}
}

static struct interface *interface_of(const struct xdpscope_writer *writer,
				      const struct capture_record *record)
{
	return place_of(writer->interfaces, writer->slots,
			((uint64_t)record->target << 1 | record->point) + 1,
			(uint64_t)record->netns << 32 | record->ifindex);
}

/* Gives the interface of a record the number of its block. Returns 0 or -errno. */
static int xdpscope_writer_interface(struct xdpscope_writer *writer,
				     const struct capture_record *record, uint32_t number)
{
	struct interface *found;

	if (writer->known * 2 >= writer->slots) {
		uint32_t slots = writer->slots * 2;
		struct interface *more = calloc(slots, sizeof(*more));

		if (!more)
			return -ENOMEM;
		for (uint32_t i = 0; i < writer->slots; i++) {
			struct interface *old = &writer->interfaces[i];

			if (old->point)
				*place_of(more, slots, old->point, old->device) = *old;
		}
		free(writer->interfaces);
		writer->interfaces = more;
		writer->slots = slots;
	}
	found = interface_of(writer, record);
	writer->known += !found->point;
	found->point = ((uint64_t)record->target << 1 | record->point) + 1;
	found->device = (uint64_t)record->netns << 32 | record->ifindex;
	found->number = number;
	return 0;
}

/* How many packets of the interface of this record were written. */
static uint64_t xdpscope_writer_packets(const struct xdpscope_writer *writer,
					const struct capture_record *record)
{
	const struct interface *found = interface_of(writer, record);

	return found->point ? found->packets : 0;
}

static uint8_t *put32(uint8_t *to, uint32_t value)
{
	memcpy(to, &value, sizeof(value));
	return to + sizeof(value);
}

static uint8_t *put_option(uint8_t *to, uint16_t code, const void *value, uint16_t size)
{
	to = put32(to, code | (uint32_t)size << 16); /* little-endian, as x86 is */
	memset(to, 0, (size + 3) & ~3);
	memcpy(to, value, size);
	return to + ((size + 3) & ~3);
}

/* An enhanced packet block. */
static void put_packet(struct xdpscope_writer *writer, const struct packet *packet,
		       uint32_t interface, uint64_t offset)
{
	const struct capture_record *record = &packet->record;
	uint8_t *start = writer->buffer + writer->used, *to = start;
	uint64_t time = record->time + offset, lost = record->lost, verdict = record->verdict;
	uint32_t flags = record->flags & CAPTURE_LEAVES ? 2 : 1; /* outbound, inbound */
	uint32_t padded = (record->captured + 3) & ~3;
	uint8_t decided[1 + sizeof(verdict)] = { 2 }; /* Linux eBPF XDP */

	to = put32(to, 6);
	to = put32(to, 0); /* the size: below */
	to = put32(to, interface);
	to = put32(to, time >> 32);
	to = put32(to, time);
	to = put32(to, record->captured);
	to = put32(to, record->length);
	memset(to + padded - (padded ? 4 : 0), 0, padded ? 4 : 0);
	memcpy(to, packet->bytes, record->captured);
	to += padded;
	to = put_option(to, 2, &flags, sizeof(flags));
	if (lost)
		to = put_option(to, 4, &lost, sizeof(lost));
	to = put_option(to, 5, &record->id, sizeof(record->id));
	if (!(record->flags & CAPTURE_LEAVES))
		to = put_option(to, 6, &record->queue, sizeof(record->queue));
	if (record->flags & CAPTURE_VERDICT) {
		memcpy(decided + 1, &verdict, sizeof(verdict));
		to = put_option(to, 7, decided, sizeof(decided));
	}
	to = put32(to, 0); /* no more options */
	to = put32(to, to + 4 - start);
	put32(start + 4, to - start);
	writer->used += to - start;
}

/* Moves the last block of the buffer, which begins at `start`, to the history. */
static int keep_back(struct xdpscope_writer *writer, size_t start)
{
	struct block *block = &writer->blocks[writer->kept % writer->history];
	uint32_t size = writer->used - start;

	if (block->room < size) {
		uint8_t *more = realloc(block->bytes, size);

		if (!more)
			return -ENOMEM;
		block->bytes = more;
		block->room = size;
	}
	memcpy(block->bytes, writer->buffer + start, size);
	block->size = size;
	writer->kept++;
	writer->used = start;
	return 0;
}

/* Writes what was kept back; from now on nothing is. Returns 0 or -errno. */
static int xdpscope_writer_release(struct xdpscope_writer *writer)
{
	uint64_t first = writer->kept > writer->history ? writer->kept - writer->history : 0;

	for (; first < writer->kept; first++) {
		struct block *block = &writer->blocks[first % writer->history];
		int failed;

		do
			failed = xdpscope_writer_put(writer, block->bytes, block->size);
		while (failed == -EINTR);
		if (failed)
			return failed;
	}
	forget(writer);
	return 0;
}

/*
 * Adds a packet's block, or keeps it back. Sets *event if its verdict is one of writer->events. Returns
 * 0 or -errno.
 */
static int write_packet(struct xdpscope_writer *writer, const struct packet *packet,
			uint64_t offset, bool *event)
{
	const struct capture_record *record = &packet->record;
	struct interface *interface = interface_of(writer, record);
	size_t start = writer->used;

	put_packet(writer, packet, interface->number, offset);
	interface->packets++;
	if (record->point == CAPTURE_EXIT && record->flags & CAPTURE_VERDICT) {
		uint32_t verdict = record->verdict < 5 ? record->verdict : 5;

		writer->verdicts[verdict]++;
		*event |= writer->events >> verdict & 1;
	}
	if (writer->counted_point < 0 || record->point == writer->counted_point)
		writer->packets++;
	return writer->history ? keep_back(writer, start) : 0;
}

/*
 * Writes what is in the rings to the buffer, and the buffer to the file when it is full. Returns an enum
 * drained, or -errno if the file cannot be written.
 *
 * all: take records of this moment too, because no more will come.
 */
static int xdpscope_writer_drain(struct xdpscope_writer *writer, struct xdpscope_rings *rings,
				 int all)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	uint64_t until = all ? UINT64_MAX : now;
	/* Read for each call, so that a clock that is set shows in what follows. */
	uint64_t offset = clock_ns(CLOCK_REALTIME) - now;
	struct ring *ring;
	bool event;
	int at = 0;

	begin(rings);
	while ((ring = earliest(rings, until, &at))) {
		struct packet packets[2];
		int count = packets_of(ring->head, packets);

		for (int i = 0; i < count; i++) {
			if (!interface_of(writer, &packets[i].record)->point) {
				writer->unknown = packets[i].record;
				return DRAINED_UNKNOWN;
			}
		}
		if (writer->limit && writer->packets >= writer->limit)
			return DRAINED_LIMIT;
		if (writer->rotate_at && writer->flushed + writer->used >= writer->rotate_at)
			return DRAINED_ROTATE;
		if (writer->used + count * LARGEST > BUFFER_SIZE) {
			int failed = xdpscope_writer_flush(writer);

			if (failed)
				return failed;
		}
		event = false;
		for (int i = 0; i < count; i++) {
			int failed = write_packet(writer, &packets[i], offset, &event);

			if (failed)
				return failed;
		}
		consume(rings, ring, at);
		if (event)
			return DRAINED_EVENT;
	}
	return writer->limit && writer->packets >= writer->limit ? DRAINED_LIMIT : DRAINED;
}
