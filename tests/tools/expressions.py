# SPDX-License-Identifier: Apache-2.0
"""Filters of tcpdump's language: each primitive of pcap-filter(7), and combinations of them."""

EXPRESSIONS = r"""
ip
ip6
arp
rarp
tcp
udp
icmp
icmp6
igmp
igrp
pim
ah
esp
vrrp
carp
sctp
atalk
aarp
decnet
iso
stp
ipx
netbeui
lat
moprc
mopdl
clnp
esis
isis
llc
llc i
llc s
llc u
llc ui
llc rr
mpls
mpls 100000
mpls 100000 and mpls 1024
mpls and host 10.0.0.1
mpls and tcp port 80
pppoed
pppoes
pppoes 0x27
pppoes and ip
pppoes and tcp dst port 443
vlan
vlan 100
vlan 100 and vlan 200
vlan and ip
vlan and tcp port 80
vlan and vlan and udp
vlan 300 or ip6
not vlan
ether proto 0x88cc
ether proto \ip
ether proto \ip6
ether proto \arp
ether broadcast
ether multicast
broadcast
multicast
ip multicast
ip6 multicast
ether host 02:00:00:00:00:01
ether src 02:00:00:00:00:02
ether dst 02:00:00:00:00:02
ether src or dst 02:00:00:00:00:02
ether src host 02:00:00:00:00:03 or ether dst host 01:00:5e:00:00:12
not ether host 02:00:00:00:00:02
host 10.0.0.1
src host 10.0.0.1
dst host 10.0.0.1
src or dst host 192.168.1.1
src and dst host 10.0.0.1
ip host 10.0.0.1
arp host 10.0.0.1
rarp host 10.0.0.1
ip6 host fe80::1
host ff02::1
dst host ff02::5
ip6 src net fe80::/10
ip6 dst net ff00::/8
ip6 net 2001:db8::/32
net 10
net 192.168
net 10.0.0.0/8
src net 172.16.0.0/12
dst net 224.0.0.0/4
net 192.168.1.0 mask 255.255.255.0
net 0.0.0.0/0
net 128.0.0.0/1
not net 128.0.0.0/1
port 53
src port 53
dst port 53
port 80 or port 443
tcp port 80
tcp src port 80
tcp dst port 179
udp port 123
udp src port 500
udp dst port 67
sctp port 36412
sctp dst port 2905
portrange 1-1024
src portrange 1024-65535
dst portrange 0-52
tcp portrange 100-200
udp portrange 32768-65535
udp dst portrange 33434-33534
sctp portrange 1-65535
tcp port 0
port 65535
not port 80
ip proto 47
ip proto 50 or ip proto 51
ip proto \icmp
ip proto 255
ip6 proto 17
ip6 proto 6
ip6 proto 0
ip6 proto 43
ip6 proto 44
ip6 proto 89
proto 89
proto 2
proto \tcp
iso proto 130
less 64
less 100
greater 128
greater 1000
len <= 60
len > 500
len = 60
len != 60
len >= 1500 or len < 60
len & 1 = 1
len / 2 > 100
len % 3 = 0
len - 14 = ip[2:2]
ip[0] & 0xf != 5
ip[0] >> 4 = 4
ip[6:2] & 0x1fff = 0
ip[6:2] & 0x1fff != 0
ip[6:2] & 0x3fff != 0
ip[6] & 0x20 != 0
ip[8] < 5
ip[8] > 200
ip[9] = 17
ip[2:2] > 576
ip[16] >= 224
ip[12:4] = ip[16:4]
ip[12:4] = 0x0a000001
ip[1] & 0xfc != 0
(ip[2:2] - ((ip[0] & 0xf) << 2)) > 40
tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)
tcp[tcpflags] & (tcp-syn|tcp-fin) != 0
tcp[tcpflags] & tcp-syn != 0 and tcp[tcpflags] & tcp-ack = 0
tcp[tcpflags] = tcp-syn
tcp[tcpflags] & tcp-rst != 0
tcp[tcpflags] & (tcp-push|tcp-urg) != 0
tcp[tcpflags] & (tcp-ece|tcp-cwr) != 0
tcp[13] = 2
tcp[13] & 18 != 0
tcp[0:2] < 1024
tcp[2:2] = 179
tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420
tcp[4:4] > 0x7fffffff
tcp[14:2] < 1000
udp[4:2] > 100
udp[0:2] = udp[2:2]
udp[8] & 0x80 = 0
udp[8:4] = 0x12345678
udp[10] = 0xff
icmp[icmptype] = icmp-echo
icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply
icmp[icmptype] = icmp-unreach and icmp[icmpcode] = 3
icmp[0] = 11
icmp6[icmp6type] = icmp6-echo
icmp6[icmp6type] = icmp6-neighborsolicit
icmp6[icmp6type] = icmp6-routeradvert
icmp6[icmp6type] >= 133 and icmp6[icmp6type] <= 137
ip6[6] = 0
ip6[6] = 58 and ip6[40] = 135
ip6[0:4] & 0x0fffff != 0
ip6[7] = 255
ip6[4:2] > 100
ip6[8:4] = 0xfe800000
ether[0] & 1 != 0
ether[0] & 1 = 0 and ip[16] >= 224
ether[12:2] = 0x0800
ether[12:2] <= 1500
ether[6:4] = 0x02000000 and ether[10:2] = 2
ether[7:4] != 0
ether[3:2] = ether[9:2]
ether[60] = 0
ether[100] != 0
ether[1000:4] > 0
ether[ether[13]] = 0
ether[ip[0] & 0xf] > 1
arp[6:2] = 1
arp[6:2] = 2 and arp[14:4] = 0x0a000001
ip[ip[0] & 0xf] != 0
ip[20:4] = ip[24:4]
ip[(ip[0] & 0xf) << 2 : 2] = 53
ip[-1:1] = 0
ip[0xffffffff] = 1
ip[4294967280:4] = 1
ip[2:2] * ip[2:2] > 1000000
ip[2:2] << ip[8] = 0
ip[4:2] % (ip[8] + 1) = 0
ip[2:2] / ip[8] > 3
ip[4:2] / (ip[1] & 1) = 0
ip[4:2] ^ 0xffff > 0x8000
ip[4:2] | ip[6:2] = 0
-ip[4:2] > 0
1 = 1
ip and not (tcp or udp or icmp)
(tcp or udp) and (port 53 or port 123) and not net 10.0.0.0/8
tcp and (src net 10.0.0.0/8 or dst net 192.168.0.0/16) and portrange 1-1023
ip host 10.0.0.1 and not 10.0.0.2
host 10.0.0.1 and (10.0.0.2 or 10.0.0.3)
ip and (ip[6:2] & 0x1fff = 0) and udp and len > 100
not (ip or ip6 or arp)
ip6 and not tcp and not udp and not icmp6
geneve
geneve 0x123
geneve and tcp
ip proto 47 and ip[20:2] & 0x8000 = 0
udp dst port 4789 and udp[8] & 0x08 != 0
icmp or icmp6 or arp or udp port 67 or udp port 68
"""


def expressions() -> list[str]:
    """Return all of them; each is accepted by libpcap 1.10."""
    return EXPRESSIONS.strip().splitlines()
