// SPDX-License-Identifier: GPL-2.0-only
/*
 * The same as harmless.bpf.c, for helpers with a map that needs more rights than tracing.
 * Before Linux 6.9 creating the map takes CAP_NET_ADMIN; CAP_SYS_ADMIN is not enough.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define INDEXED_MAP(name, kind)                    \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, 1);            \
		__type(key, __u32);                \
		__type(value, __u32);              \
	} name SEC(".maps")

INDEXED_MAP(devmap, DEVMAP);
INDEXED_MAP(devmap_hash, DEVMAP_HASH);
INDEXED_MAP(xskmap, XSKMAP);

SEC("xdp")
int read_only_redirects(struct xdp_md *ctx)
{
	bpf_redirect_map(&devmap, 0, 0);
	bpf_redirect_map(&devmap_hash, 0, 0);
	bpf_redirect_map(&xskmap, 0, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
