// SPDX-License-Identifier: GPL-2.0-only
/* Programs whose verdicts can fail, one for each way, and one that counts what arrives. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define MAP(name, kind, entries)                   \
	struct {                                   \
		__uint(type, BPF_MAP_TYPE_##kind); \
		__uint(max_entries, entries);      \
		__type(key, __u32);                \
		__type(value, __u32);              \
	} name SEC(".maps")

MAP(devices, DEVMAP, 4);
MAP(cpus, CPUMAP, 8);
MAP(sockets, XSKMAP, 4);
MAP(target, ARRAY, 1); /* an ifindex */
MAP(seen, ARRAY, 2); /* packets of the programs that redirect, and of `arrive` */

static __always_inline void count(__u32 which)
{
	__u32 *packets = bpf_map_lookup_elem(&seen, &which);

	if (packets)
		__sync_fetch_and_add(packets, 1);
}

SEC("xdp")
int redirect_to_index(struct xdp_md *ctx)
{
	__u32 zero = 0, *index = bpf_map_lookup_elem(&target, &zero);

	count(0);
	return index ? bpf_redirect(*index, 0) : XDP_PASS;
}

SEC("xdp")
int redirect_to_device(struct xdp_md *ctx)
{
	count(0);
	return bpf_redirect_map(&devices, 0, XDP_ABORTED);
}

SEC("xdp")
int redirect_to_cpu(struct xdp_md *ctx)
{
	count(0);
	return bpf_redirect_map(&cpus, 0, XDP_ABORTED);
}

SEC("xdp")
int redirect_to_socket(struct xdp_md *ctx)
{
	count(0);
	return bpf_redirect_map(&sockets, 0, XDP_ABORTED);
}

SEC("xdp")
int send_back(struct xdp_md *ctx)
{
	count(0);
	return XDP_TX;
}

SEC("xdp")
int abort_with_a_long_name(struct xdp_md *ctx)
{
	return XDP_ABORTED;
}

SEC("xdp")
int return_seventy_seven(struct xdp_md *ctx)
{
	return 77;
}

SEC("xdp")
int arrive(struct xdp_md *ctx)
{
	count(1);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
