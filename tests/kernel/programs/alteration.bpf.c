// SPDX-License-Identifier: GPL-2.0-only
/* Programs that may alter their packets, alters_*, and others that certainly do not, keeps_*. */
#include <stddef.h>
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define SPACE 64

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16);
	__type(key, __u64);
	__type(value, __u64);
} seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} sizes SEC(".maps");

struct {
	__uint(type, 3); /* BPF_MAP_TYPE_PROG_ARRAY */
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} tail SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_CPUMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} cpus SEC(".maps");

__u64 total;

/* The packet's first bytes; NULL if there are not as many. */
static __always_inline __u8 *bytes_of(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;

	return data + SPACE > end ? NULL : data;
}

SEC("xdp")
int keeps_counting(struct xdp_md *ctx)
{
	__u8 *data = bytes_of(ctx);
	__u64 *found, key, one = 1;
	__u32 size;

	if (!data)
		return XDP_DROP;
	key = *(__u64 *)(data + 16);
	found = bpf_map_lookup_elem(&seen, &key);
	if (found)
		__sync_fetch_and_add(found, 1);
	else
		bpf_map_update_elem(&seen, &key, &one, BPF_NOEXIST);
	size = (ctx->data_end - ctx->data) & 255;
	found = bpf_map_lookup_elem(&sizes, &size);
	if (found)
		*found += 1;
	__sync_fetch_and_add(&total, size);
	return XDP_PASS;
}

SEC("xdp")
int keeps_looking_far(struct xdp_md *ctx)
{
	__u8 *data = (__u8 *)(long)ctx->data, *end = (__u8 *)(long)ctx->data_end;
	__u64 sum = 0;

	for (int i = 0; i < 16; i++) {
		if (data + 8 > end)
			break;
		sum = sum * 31 + *(__u64 *)data;
		data += 8;
	}
	if (bpf_get_prandom_u32() & 1)
		return XDP_DROP;
	return sum & 1 ? XDP_PASS : bpf_redirect_map(&cpus, 0, XDP_PASS);
}

/* Has more pointers at hand than there are registers, so that some go to the stack. */
SEC("xdp")
int keeps_on_the_stack(struct xdp_md *ctx)
{
	__u8 *data = bytes_of(ctx), *copy;
	struct xdp_md *kept;
	__u64 key = 1;

	if (!data)
		return XDP_DROP;
	asm volatile("*(u64 *)(r10 - 64) = %0; *(u64 *)(r10 - 72) = %1"
		     :
		     : "r"(data), "r"(ctx)
		     : "memory");
	bpf_map_delete_elem(&seen, &key);
	asm volatile("%0 = *(u64 *)(r10 - 64); %1 = *(u64 *)(r10 - 72);"
		     : "=r"(copy), "=r"(kept)
		     :
		     : "memory");
	return copy[3] && copy + 4 < (__u8 *)(long)kept->data_end ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int alters_a_byte(struct xdp_md *ctx)
{
	__u8 *data = bytes_of(ctx);

	if (data)
		data[20] = 1;
	return XDP_PASS;
}

/* Seldom, and with the pointer behind a number. */
SEC("xdp")
int alters_seldom(struct xdp_md *ctx)
{
	__u64 at = bpf_get_prandom_u32() & 31;
	__u8 *data = bytes_of(ctx);

	if (!data || at != 7)
		return XDP_PASS;
	asm volatile("%0 += %1" : "+r"(at) : "r"(data));
	*(__u8 *)at = 0;
	return XDP_PASS;
}

SEC("xdp")
int alters_through_the_stack(struct xdp_md *ctx)
{
	__u8 *data = bytes_of(ctx), *copy;
	__u64 key = 1;

	if (!data)
		return XDP_DROP;
	asm volatile("*(u64 *)(r10 - 64) = %0" : : "r"(data) : "memory");
	bpf_map_delete_elem(&seen, &key);
	asm volatile("%0 = *(u64 *)(r10 - 64)" : "=r"(copy) : : "memory");
	copy[20] = 1;
	return XDP_PASS;
}

/* The context is spilled in a loop, and used before that in the order of instructions. */
SEC("xdp")
int alters_in_a_later_round(struct xdp_md *ctx)
{
	struct xdp_md *kept = ctx;
	__u64 key = 1;

	asm volatile("*(u64 *)(r10 - 64) = %0" : : "r"(ctx) : "memory");
	for (int i = 0; i < 3; i++) {
		__u8 *data = (__u8 *)(long)kept->data;

		if (data + SPACE > (__u8 *)(long)kept->data_end)
			return XDP_DROP;
		bpf_map_delete_elem(&seen, &key);
		if (i == 2)
			data[20] = 1;
		asm volatile("%0 = *(u64 *)(r10 - 64)" : "=r"(kept) : : "memory");
	}
	return XDP_PASS;
}

SEC("xdp")
int alters_its_head(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_head(ctx, -4) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int alters_its_tail(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_tail(ctx, -4) ? XDP_DROP : XDP_PASS;
}

SEC("xdp")
int alters_by_tail_call(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &tail, 0);
	return XDP_PASS;
}

/* What an extension could take the place of. */
__noinline int replaceable(struct xdp_md *ctx)
{
	volatile int verdict = XDP_PASS;

	return ctx ? verdict : XDP_DROP;
}

SEC("xdp")
int alters_in_a_function(struct xdp_md *ctx)
{
	return replaceable(ctx);
}

char LICENSE[] SEC("license") = "GPL";
