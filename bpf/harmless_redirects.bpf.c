// SPDX-License-Identifier: GPL-2.0-only
/*
 * What harmless.bpf.c is for, of helpers that take a map which not everyone may make who may
 * trace: before Linux 6.9 it takes CAP_NET_ADMIN, and CAP_SYS_ADMIN does not stand for it.
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
int harmless_redirects(struct xdp_md *ctx)
{
	bpf_redirect_map(&devmap, 0, 0);
	bpf_redirect_map(&devmap_hash, 0, 0);
	bpf_redirect_map(&xskmap, 0, 0);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
