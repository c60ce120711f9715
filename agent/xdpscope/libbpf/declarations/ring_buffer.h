/* SPDX-License-Identifier: Apache-2.0 */
/* libbpf.h: ring buffers */

struct ring_buffer;
extern "Python" int xdpscope_ring_sample(void *ctx, void *data, size_t size);
struct ring_buffer *xdpscope_ring_buffer_new(int map_fd, void *ctx);
void ring_buffer__free(struct ring_buffer *rb);
int ring_buffer__poll(struct ring_buffer *rb, int timeout_ms);
int ring_buffer__consume(struct ring_buffer *rb);
int ring_buffer__epoll_fd(const struct ring_buffer *rb);
