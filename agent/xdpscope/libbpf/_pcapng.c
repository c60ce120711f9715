/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the packets of the rings as pcapng blocks. Part of the bindings, compiled behind _rings.c.
 *
 * Blocks: draft-ietf-opsawg-pcapng, section 4.3.
 */
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
