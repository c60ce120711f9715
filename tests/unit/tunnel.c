/* SPDX-License-Identifier: Apache-2.0 */
/* The search for the packet inside a tunnel, compiled for this machine. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

static __u64 first, last; /* the addresses that may be read: from `first` to before `last` */
static int strayed; /* how often others were asked for */

static long read_bytes(void *to, __u32 size, const void *from)
{
	__u64 at = (__u64)from;

	if (at < first || at + size > last) {
		strayed++;
		return -14;
	}
	__builtin_memcpy(to, from, size);
	return 0;
}

#define bpf_probe_read_kernel read_bytes
#include "../../bpf/common/tunnel.h"

/* Returns how often bytes that are not in the packet's first part were read. */
int search(const __u8 *packet, __u64 linear, __u64 length, int layer3, __u64 found[4])
{
	struct inner_packet inner = { 0 };

	first = (__u64)packet;
	last = first + linear;
	strayed = 0;
	find_inner(first, linear, length, layer3, &inner);
	__builtin_memcpy(found, &inner, sizeof(inner));
	return strayed;
}
