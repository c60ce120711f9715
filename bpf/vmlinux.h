/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's types, cut down to the members that are read here.
 *
 * Member offsets come from the running kernel's BTF when the object is loaded
 * (preserve_access_index), so neither the order nor the absence of other
 * members matters, and a build needs neither bpftool nor a kernel's BTF.
 */
#ifndef __XDPSCOPE_VMLINUX_H
#define __XDPSCOPE_VMLINUX_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

enum {
	false = 0,
	true = 1,
};
typedef _Bool bool;

/* include/uapi/linux/bpf.h: numbers fixed by the kernel's user-space interface */
enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LRU_PERCPU_HASH = 10,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_ARRAY_OF_MAPS = 12,
	BPF_MAP_TYPE_DEVMAP = 14,
	BPF_MAP_TYPE_CPUMAP = 16,
	BPF_MAP_TYPE_XSKMAP = 17,
	BPF_MAP_TYPE_DEVMAP_HASH = 25, /* 5.4 */
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_F_NO_PREALLOC = 1, /* entries take memory only while they exist */
};

#define BPF_F_CURRENT_CPU 0xffffffffULL

enum {
	BPF_NOEXIST = 1,
};

enum {
	BPF_RB_NO_WAKEUP = 1,
};

enum xdp_action {
	XDP_ABORTED = 0,
	XDP_DROP,
	XDP_PASS,
	XDP_TX,
	XDP_REDIRECT,
};

/* Asked for by name: whether this kernel has the helper. */
enum bpf_func_id {
	BPF_FUNC_ktime_get_coarse_ns = 160, /* 5.11 */
	BPF_FUNC_xdp_get_buff_len = 188, /* 5.18 */
	BPF_FUNC_xdp_load_bytes = 189, /* 5.18 */
};

/* include/linux/netdevice.h; the number is relocated by name */
enum netdev_cmd {
	NETDEV_REGISTER = 5,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_XDP = 6,
	BPF_PROG_TYPE_EXT = 28,
};

enum bpf_attach_type {
	BPF_XDP_DEVMAP = 35,
	BPF_XDP = 37,
};

/* What the author of an XDP program writes as its argument; the context that
 * the kernel hands over, and that a tracer reads, is struct xdp_buff.
 */
struct xdp_md {
	__u32 data;
	__u32 data_end;
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	/* A number that is never given again. Set from the start since 5.12; before, it was of
	 * another type, so that the member does not exist as far as this one goes.
	 */
	__u64 net_cookie;
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct net_device {
	char name[16];
	int ifindex;
	unsigned short type; /* ARPHRD_... */
	unsigned short hard_header_len;
	possible_net_t nd_net;
};

/* Nothing of it is read: a type large enough to read a packet's headers as. */
struct new_utsname {
	char sysname[65];
};

struct xdp_rxq_info {
	struct net_device *dev;
	__u32 queue_index;
};

/* Where a redirected packet is about to leave: in programs of devmap entries only (5.8). */
struct xdp_txq_info {
	struct net_device *dev;
};

struct xdp_buff {
	void *data;
	void *data_end;
	void *data_hard_start;
	struct xdp_rxq_info *rxq;
	struct xdp_txq_info *txq;
	__u32 frame_sz;
	__u32 flags;
};

enum xdp_buff_flags {
	XDP_FLAGS_HAS_FRAGS = 1,
};

/* Where a multi-buffer packet goes on. */
struct skb_frag {
	__u64 page;
};

struct skb_shared_info {
	__u8 nr_frags;
	struct skb_frag frags[1];
};

struct page {
	unsigned long flags;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct bpf_prog;
struct bpf_prog_offload;

struct bpf_prog_aux {
	atomic64_t refcnt;
	__u32 id;
	__u32 attach_btf_id;
	/* The name of the function that a tracing program or an extension was loaded for. */
	const char *attach_func_name;
	char name[16];
	bool dev_bound; /* to one device (6.3) */
	bool offload_requested; /* to a network card */
	struct bpf_prog_offload *offload; /* of both; NULL once the device is gone */
	/* Of an extension: what it extends (5.10), the program itself only until it is attached there. */
	struct bpf_prog *dst_prog;
	enum bpf_prog_type saved_dst_prog_type;
	enum bpf_attach_type saved_dst_attach_type;
};

struct bpf_prog {
	enum bpf_prog_type type;
	enum bpf_attach_type expected_attach_type;
	__u8 tag[8];
	struct bpf_prog_aux *aux;
};

struct bpf_map {
	enum bpf_map_type map_type;
	__u32 max_entries;
	__u32 id;
};

/* A prog array, among others. */
struct bpf_array {
	struct bpf_map map;
	void *ptrs[0];
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

/* DEVMAP has the first of the two tables, DEVMAP_HASH the other. */
struct bpf_dtab {
	struct bpf_map map;
	struct bpf_dtab_netdev **netdev_map;
	struct hlist_head *dev_index_head;
	__u32 n_buckets;
};

struct bpf_dtab_netdev {
	struct net_device *dev;
	struct hlist_node index_hlist;
	struct bpf_prog *xdp_prog; /* 5.8 */
};

struct bpf_cpu_map {
	struct bpf_map map;
	struct bpf_cpu_map_entry **cpu_map;
};

struct bpf_cpu_map_entry {
	struct bpf_prog *prog; /* 5.9 */
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

/* The context of a bpf_prog iterator (5.9). */
struct bpf_iter__bpf_prog {
	struct bpf_iter_meta *meta;
	struct bpf_prog *prog;
};

/* And of a bpf_map iterator (5.8). */
struct bpf_iter__bpf_map {
	struct bpf_iter_meta *meta;
	struct bpf_map *map;
};

#pragma clang attribute pop

#endif
