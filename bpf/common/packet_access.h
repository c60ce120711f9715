/* SPDX-License-Identifier: GPL-2.0-only */
/* How a tracer reads the packet of its target: its arguments, length and kind of device. */
#ifndef __XDPSCOPE_PACKET_ACCESS_H
#define __XDPSCOPE_PACKET_ACCESS_H

#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* Constants of the template, which the agent replaces in each copy. */
#define constant(value)                                           \
	({                                                        \
		__u64 __c;                                        \
		asm volatile("%0 = %1" : "=r"(__c) : "i"(value)); \
		__c;                                              \
	})

/* Keeps the compiler from moving memory accesses across it. */
#define barrier() asm volatile("" ::: "memory")

/* Reads and writes that the compiler leaves where they are. */
#define read_once(place)	 (*(const volatile __typeof__(place) *)&(place))
#define write_once(place, value) (*(volatile __typeof__(place) *)&(place) = (value))

/*
 * The arguments of a fexit, read again wherever they are needed. Keeping a register across
 * a call is more expensive. Older verifiers know no bounds of a number that was stored on
 * the stack.
 */
static __always_inline struct xdp_buff *packet_of(__u64 *ctx)
{
	return (struct xdp_buff *)*(volatile __u64 *)&ctx[0];
}

/* The whole packet, fragments of a multi-buffer one included. */
static __always_inline __u64 length_of(struct xdp_buff *xdp)
{
	/* Kernels without the helper have no multi-buffer packets. */
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_xdp_get_buff_len))
		return bpf_xdp_get_buff_len((struct xdp_md *)xdp);
	return (__u64)xdp->data_end - (__u64)xdp->data;
}

/* include/uapi/linux/if_arp.h: Ethernet, and devices whose packets begin with IP. */
enum {
	ARPHRD_ETHER = 1,
	ARPHRD_PPP = 512,
	ARPHRD_RAWIP = 519,
	ARPHRD_TUNNEL = 768, /* IPIP */
	ARPHRD_TUNNEL6 = 769,
	ARPHRD_SIT = 776,
	ARPHRD_IPGRE = 778,
	ARPHRD_IP6GRE = 823,
	ARPHRD_NONE = 0xfffe, /* tun, WireGuard */
};

/* Whether the packets of a device begin with IP, not with Ethernet. */
static __always_inline bool is_layer3(struct net_device *device)
{
	__u16 type = device->type;

	/* Most are; a tun can be configured with this type. */
	if (type == ARPHRD_ETHER)
		return device->hard_header_len == 0;
	switch (type) {
	case ARPHRD_PPP:
	case ARPHRD_RAWIP:
	case ARPHRD_TUNNEL:
	case ARPHRD_TUNNEL6:
	case ARPHRD_SIT:
	case ARPHRD_IPGRE:
	case ARPHRD_IP6GRE:
	case ARPHRD_NONE:
		return true;
	default:
		return false;
	}
}

#endif
