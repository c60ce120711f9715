// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counts what happened to packets after the verdict, from the kernel's xdp:* tracepoints.
 *
 * Each kind of outcome has its own map, so that many keys of one kind leave room for the others.
 * No program here runs for a redirect that succeeds, except `devmap_xmit` and the two of cpumaps,
 * which run once for a bulk of up to 16 or 8 packets.
 *
 * tp_btf gives the net_device itself: an ifindex alone is not unique across namespaces.
 */
#include "vmlinux.h"
#include "xdpscope.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* Keys of one kind: programs times interfaces times errors; pairs of interfaces; cpumaps. */
#define MAX_KEYS 4096

#define OUTCOMES(map)                                   \
	struct {                                        \
		__uint(type, BPF_MAP_TYPE_PERCPU_HASH); \
		__uint(map_flags, BPF_F_NO_PREALLOC);   \
		__uint(max_entries, MAX_KEYS);          \
		__type(key, struct outcome_key);        \
		__type(value, struct outcome);          \
	} map SEC(".maps")

OUTCOMES(exceptions);
OUTCOMES(redirect_errors);
OUTCOMES(devmap_transmits);
OUTCOMES(transmits);
OUTCOMES(cpumaps);

SEC(".data.outcomes") struct outcome_state state;

static __always_inline __u64 identity_of(const struct net_device *device)
{
	struct net *net = device->nd_net.net;
	__u64 serial = net->ns.inum;

	/* In 5.10 and 5.11 the field has another type, and so does not exist here. */
	if (bpf_core_field_exists(net->net_cookie) && state.by_cookie)
		serial = net->net_cookie;
	return serial << 32 | (__u32)device->ifindex;
}

static __always_inline void describe(struct outcome_device *described,
				     const struct net_device *device)
{
	described->netns = device->nd_net.net->ns.inum;
	bpf_probe_read_kernel(described->name, sizeof(described->name), device->name);
}

static __always_inline struct outcome *find(void *map, struct outcome_key *key,
					    const struct net_device *from,
					    const struct net_device *to,
					    const struct bpf_prog *program)
{
	struct outcome *known = bpf_map_lookup_elem(map, key);
	struct outcome fresh = {};

	if (known)
		return known;
	if (from)
		describe(&fresh.from, from);
	if (to)
		describe(&fresh.to, to);
	if (program)
		bpf_probe_read_kernel(fresh.program, sizeof(fresh.program), program->aux->name);
	/* Another CPU may have been first. */
	bpf_map_update_elem(map, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

static __always_inline void add(struct outcome *counts, __u64 succeeded, __u64 failed)
{
	/* Atomic: with PREEMPT_RT, two threads of one CPU may be here. */
	if (!counts) {
		__sync_fetch_and_add(&state.lost, succeeded + failed);
		return;
	}
	if (succeeded)
		__sync_fetch_and_add(&counts->succeeded, succeeded);
	if (failed)
		__sync_fetch_and_add(&counts->failed, failed);
}

/* A packet that a program's verdict did not bring anywhere. */
static __always_inline int failure(void *map, const struct net_device *device,
				   const struct bpf_prog *program, __s32 code)
{
	struct outcome_key key = { .code = code };

	if (!device)
		return 0;
	key.from = identity_of(device);
	if (program)
		key.program = program->aux->id;
	add(find(map, &key, device, NULL, program), 0, 1);
	return 0;
}

SEC("tp_btf/xdp_exception")
int BPF_PROG(xdp_exception, const struct net_device *device, const struct bpf_prog *program,
	     __u32 verdict)
{
	return failure(&exceptions, device, program,
		       verdict > VERDICT_REDIRECT ? VERDICT_UNKNOWN : verdict);
}

/*
 * The arguments from the fifth on differ between kernels (5.13) and are not used. Since 5.6 the
 * kernel reports all errors by xdp_redirect_err; xdp_redirect_map_err is gone in 6.17.
 */
SEC("tp_btf/xdp_redirect_err")
int BPF_PROG(xdp_redirect_err, const struct net_device *device, const struct bpf_prog *program,
	     const void *target, int error)
{
	return failure(&redirect_errors, device, program, error);
}

SEC("tp_btf/xdp_redirect_map_err")
int BPF_PROG(xdp_redirect_map_err, const struct net_device *device, const struct bpf_prog *program,
	     const void *target, int error)
{
	return failure(&redirect_errors, device, program, error);
}

SEC("tp_btf/xdp_devmap_xmit")
int BPF_PROG(xdp_devmap_xmit, const struct net_device *from, const struct net_device *to, int sent,
	     int drops)
{
	struct outcome_key key = {};

	if (!from || !to)
		return 0;
	key.from = identity_of(from);
	key.to = identity_of(to);
	add(find(&devmap_transmits, &key, from, to, NULL), (__u32)sent, (__u32)drops);
	return 0;
}

SEC("tp_btf/xdp_bulk_tx")
int BPF_PROG(xdp_bulk_tx, const struct net_device *device, int sent, int drops)
{
	struct outcome_key key = {};

	if (!device)
		return 0;
	key.from = identity_of(device);
	add(find(&transmits, &key, device, NULL, NULL), (__u32)sent, (__u32)drops);
	return 0;
}

static __always_inline int cpumap(int map_id, __s32 side, __u32 processed, __u32 drops)
{
	struct outcome_key key = { .from = (__u32)map_id, .code = side };

	add(find(&cpumaps, &key, NULL, NULL, NULL), processed, drops);
	return 0;
}

/*
 * `processed` contains `drops` for a bulk of frames (bq_flush_to_queue). For a socket buffer, of
 * generic mode, one of the two is 1 and the other one 0 (cpu_map_generic_redirect).
 */
SEC("tp_btf/xdp_cpumap_enqueue")
int BPF_PROG(xdp_cpumap_enqueue, int map_id, unsigned int processed, unsigned int drops)
{
	return cpumap(map_id, CPUMAP_ENQUEUE, processed > drops ? processed - drops : 0, drops);
}

/* `processed` contains `drops` here; a thread that only wakes up reports 0 of both. */
SEC("tp_btf/xdp_cpumap_kthread")
int BPF_PROG(xdp_cpumap_kthread, int map_id, unsigned int processed, unsigned int drops)
{
	if (!processed)
		return 0;
	return cpumap(map_id, CPUMAP_KTHREAD, processed - drops, drops);
}

char LICENSE[] SEC("license") = "GPL";
