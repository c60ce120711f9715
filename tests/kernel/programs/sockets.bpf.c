// SPDX-License-Identifier: GPL-2.0-only
// Gives every packet to the first socket of a map.
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("xdp")
int to_socket(struct xdp_md *ctx)
{
	return bpf_redirect_map(&sockets, 0, XDP_DROP);
}

char LICENSE[] SEC("license") = "GPL";
