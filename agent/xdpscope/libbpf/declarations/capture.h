/* SPDX-License-Identifier: Apache-2.0 */
/* _rings.c: packet records; _pcapng.c: pcapng */

struct capture_record {
    __u64 time; __u64 id; __u64 inside; __u32 target; __u32 ifindex; __u32 netns; __u32 queue;
    __u32 verdict; __u32 length; __u32 captured; __u32 lost; uint16_t cpu; __u8 point; __u8 flags;
    ...;
};
#define CAPTURE_SNAPLEN ...
#define CAPTURE_PIECE ...
struct xdpscope_rings;
struct xdpscope_rings *xdpscope_rings_new(const int *maps, int count, size_t size);
void xdpscope_rings_free(struct xdpscope_rings *rings);
size_t xdpscope_rings_read(struct xdpscope_rings *rings, uint8_t *to, size_t room, int all);

enum drained { DRAINED, DRAINED_UNKNOWN, DRAINED_LIMIT, DRAINED_ROTATE, DRAINED_EVENT };
struct xdpscope_writer {
    int counted_point; __u64 limit; __u64 packets; __u64 rotate_at; __u64 flushed;
    struct capture_record unknown; size_t used; __u32 history; __u32 events; __u64 verdicts[6];
    ...;
};
struct xdpscope_writer *xdpscope_writer_new(void);
void xdpscope_writer_free(struct xdpscope_writer *writer);
void xdpscope_writer_open(struct xdpscope_writer *writer, int fd);
int xdpscope_writer_keep(struct xdpscope_writer *writer, __u32 records);
int xdpscope_writer_release(struct xdpscope_writer *writer);
int xdpscope_writer_flush(struct xdpscope_writer *writer);
__u64 xdpscope_writer_whole(const struct xdpscope_writer *writer);
int xdpscope_writer_put(struct xdpscope_writer *writer, const uint8_t *blocks, size_t size);
int xdpscope_writer_interface(struct xdpscope_writer *writer, const struct capture_record *record,
                              __u32 number);
__u64 xdpscope_writer_packets(const struct xdpscope_writer *writer,
                              const struct capture_record *record);
int xdpscope_writer_drain(struct xdpscope_writer *writer, struct xdpscope_rings *rings, int all);
