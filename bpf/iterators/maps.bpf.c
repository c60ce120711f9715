// SPDX-License-Identifier: GPL-2.0-only
/*
 * Lists the XDP programs behind the maps of the whole host: in prog arrays, devmaps and
 * cpumaps. It also lists the device to which a devmap's entry sends packets.
 *
 * It reads the kernel's own structures. bpf(2) would take a call for each entry of a prog
 * array, and gives no namespace for a device's number. A map that is open through bpf(2)
 * also counts as a user, for which a prog array keeps its programs.
 */
#include <stddef.h>
#include "vmlinux.h"
#include "xdpscope.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

enum {
	/* Entries read in one call, and how often: at most 65,536 entries of a map. */
	PLACES_READ = 64,
	READS = 1024,
	/* Entries of a DEVMAP_HASH in one bucket; there are as many buckets as entries. */
	CHAIN = 64,
	/* Programs written for one map: the limit is an iterator's buffer of 32 KiB. */
	RECORDS = 800,
};

/* Puts the record's layout into this object's BTF, where the agent reads it. */
const struct entry_record *entry_record_layout;

/* The present map. One thread reads the iterator. */
enum bpf_map_type kind;
__u32 map_id;
__u64 places; /* where its array of pointers is */
__u32 number; /* how many of them */
__u64 pointers[PLACES_READ];

struct entry_record records[RECORDS];
__u32 written;

static __always_inline void write(struct bpf_prog *prog, struct net_device *device)
{
	enum bpf_prog_type type = prog ? BPF_CORE_READ(prog, type) : 0;
	struct entry_record *record;
	__u32 at = written;
	struct net *net;

	if (type != bpf_core_enum_value(enum bpf_prog_type, BPF_PROG_TYPE_XDP) &&
	    type != bpf_core_enum_value(enum bpf_prog_type, BPF_PROG_TYPE_EXT))
		return;
	if (at >= RECORDS)
		return;
	written = at + 1;
	record = &records[at];
	record->map_id = map_id;
	record->map_type = kind;
	record->program_id = BPF_CORE_READ(prog, aux, id);
	record->ifindex = device ? BPF_CORE_READ(device, ifindex) : 0;
	record->netns = record->serial = 0;
	record->device[0] = 0;
	if (!device)
		return;
	net = BPF_CORE_READ(device, nd_net.net);
	record->netns = record->serial = BPF_CORE_READ(net, ns.inum);
	if (bpf_core_field_exists(net->net_cookie))
		record->serial = BPF_CORE_READ(net, net_cookie);
	bpf_probe_read_kernel(record->device, sizeof(record->device), device->name);
}

/* The functions that are not static are verified once, not once for each of their calls. */

__noinline int devmap_entry(__u64 address)
{
	struct bpf_dtab_netdev *entry = (struct bpf_dtab_netdev *)address;

	write(BPF_CORE_READ(entry, xdp_prog), BPF_CORE_READ(entry, dev));
	return 0;
}

__noinline int chain_of_entries(__u64 address)
{
	struct hlist_node *node = (struct hlist_node *)address;

	for (int i = 0; i < CHAIN && node; i++) {
		devmap_entry((__u64)node -
			     bpf_core_field_offset(struct bpf_dtab_netdev, index_hlist));
		node = BPF_CORE_READ(node, next);
	}
	return 0;
}

/* The program in one entry of a map. */
__noinline int place(__u64 address)
{
	struct bpf_cpu_map_entry *entry;

	switch (kind) {
	case BPF_MAP_TYPE_PROG_ARRAY:
		write((struct bpf_prog *)address, NULL);
		break;
	case BPF_MAP_TYPE_DEVMAP:
		devmap_entry(address);
		break;
	case BPF_MAP_TYPE_DEVMAP_HASH:
		chain_of_entries(address);
		break;
	case BPF_MAP_TYPE_CPUMAP:
		entry = (struct bpf_cpu_map_entry *)address;
		write(BPF_CORE_READ(entry, prog), NULL);
		break;
	default:
		break;
	}
	return 0;
}

/* The next places from `first` on; whether there may be more. */
__noinline int some_places(__u32 first)
{
	__u32 left = number - first;

	if (first >= number)
		return 0;
	if (left > PLACES_READ)
		left = PLACES_READ;
	if (bpf_probe_read_kernel(pointers, left * sizeof(*pointers),
				  (void *)(places + first * sizeof(*pointers))))
		return 0;
	for (__u32 i = 0; i < PLACES_READ; i++) {
		if (i >= left)
			return 0;
		if (pointers[i])
			place(pointers[i]);
	}
	return 1;
}

/* Finds the pointers of a map that has such; whether it is one. */
static __always_inline bool open(struct bpf_map *map)
{
	struct bpf_dtab *devices = (struct bpf_dtab *)map;

	kind = map->map_type;
	map_id = map->id;
	number = map->max_entries;
	switch (kind) {
	case BPF_MAP_TYPE_PROG_ARRAY:
		places = (__u64)((struct bpf_array *)map)->ptrs;
		return true;
	case BPF_MAP_TYPE_DEVMAP:
		places = (__u64)BPF_CORE_READ(devices, netdev_map);
		return true;
	case BPF_MAP_TYPE_DEVMAP_HASH:
		places = (__u64)BPF_CORE_READ(devices, dev_index_head);
		number = BPF_CORE_READ(devices, n_buckets);
		return true;
	case BPF_MAP_TYPE_CPUMAP:
		places = (__u64)BPF_CORE_READ((struct bpf_cpu_map *)map, cpu_map);
		return true;
	default:
		return false;
	}
}

SEC("iter/bpf_map")
int maps(struct bpf_iter__bpf_map *ctx)
{
	struct bpf_map *map = ctx->map;
	__u32 size;

	if (!map || !open(map))
		return 0;
	written = 0;
	for (__u32 i = 0; i < READS; i++)
		if (!some_places(i * PLACES_READ))
			break;
	size = written;
	/*
	 * Compared as a number of bytes. Otherwise the compiler compares another register's
	 * value.
	 */
	size *= sizeof(*records);
	barrier_var(size);
	if (size <= sizeof(records))
		bpf_seq_write(ctx->meta->seq, records, size);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
