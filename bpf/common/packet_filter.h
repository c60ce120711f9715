/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The place where user space puts a packet filter into a program.
 *
 * The filter is translated from classic BPF; see xdpscope/sessions/packet_filter. It replaces the
 * one instruction that packet_filter() consists of, before the program is loaded. It behaves like a
 * call of a helper: it reads r1 to r3, returns in r0, changes r1 to r5, and keeps r6 to r9. It uses the
 * stack below the lowest byte that the program itself uses: up to 192 bytes there must be free.
 */
#ifndef __XDPSCOPE_PACKET_FILTER_H
#define __XDPSCOPE_PACKET_FILTER_H

/* Which translation user space puts here: constants that nothing else contains. */
#define FILTER_ETHERNET 0x7c4f11e7dead0001 /* for packets that begin with an Ethernet header */
#define FILTER_RAW_IP	0x7c4f11e7dead000c /* for packets that begin with an IP header */
/* The quick test of quick_filter(), for packets that begin with either. */
#define FILTER_QUICK 0x7c4f11e7dead0111
/* The same of the filter for packets inside tunnels. */
#define INNER_FILTER_ETHERNET 0x7c4f11e7dead1001
#define INNER_FILTER_RAW_IP   0x7c4f11e7dead100c

#define FILTER_TEXT_(constant) #constant
#define FILTER_TEXT(constant)  FILTER_TEXT_(constant)

/*
 * Returns what libpcap's bpf_filter() returns: 0 if the packet does not match.
 *
 * data:   xdp->data itself, not converted to a number, so that it keeps the type which the
 *	   verifier has for it. A number that the verifier knows the limits of may be added.
 * linear: the bytes that can be read at `data`: data_end - data. Bytes behind them (the fragments of
 *	   a multi-buffer packet) count as not there.
 * length: of the whole packet, fragments included. Only filters with `len`, `less` or `greater` read
 *	   it; if it costs something to get, see PacketFilter.uses_length.
 *
 * marker: one of the constants above.
 */
#define packet_filter(marker, data, linear, length)                                         \
	({                                                                                  \
		register __u64 __result asm("r0");                                          \
		register const void *__data asm("r1") = (data);                             \
		register __u64 __linear asm("r2") = (linear);                               \
		register __u64 __length asm("r3") = (length);                               \
		asm volatile("%0 = " FILTER_TEXT(marker) " ll"                              \
			     : "=r"(__result), "+r"(__data), "+r"(__linear), "+r"(__length) \
			     :                                                              \
			     : "r4", "r5", "memory");                                       \
		(__u32) __result;                                                           \
	})

/*
 * Ends the function around it, with 0, if the packet certainly does not match. `data` as for
 * packet_filter(); changes r0 to r5.
 *
 * The length is computed in assembler: a compiler would read a pointer that it also needs as a number twice.
 */
#define quick_filter(data, data_end)                                           \
	({                                                                     \
		register const void *__data asm("r1") = (data);                \
		register const void *__linear asm("r2") = (data_end);          \
		asm volatile("%1 -= %0; r0 = " FILTER_TEXT(FILTER_QUICK) " ll" \
			     : "+r"(__data), "+r"(__linear)                    \
			     :                                                 \
			     : "r0", "r3", "r4", "r5", "memory");              \
	})

#endif
