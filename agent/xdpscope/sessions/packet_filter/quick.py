# SPDX-License-Identifier: Apache-2.0
"""A test that a packet which cannot match fails, whether it begins with Ethernet or with IP.

To find out which of the two it is takes four reads of the kernel's structures, more than most
filters take. But a packet that begins with IP shows that by its first byte, and a filter for those
commonly begins with the version. So the filter for Ethernet is enough for all others.
"""

from collections.abc import Sequence

from xdpscope.libbpf import instruction as isa
from xdpscope.sessions.packet_filter.classic import ABS, RET, Classic, successors

_FIRST_BYTE = Classic(isa.LD | isa.B | ABS, 0, 0, 0)
_VERSIONS = (0x40, 0x60)  # the upper half of the first byte of IPv4 and IPv6
_VERSION = isa.ALU | isa.AND | isa.K, 0xF0
_IS_EQUAL = isa.JMP | isa.JEQ | isa.K
_LONGEST = 1000  # instructions: the verifier has to follow them beside those of the filter itself
_MAY_MATCH = Classic(RET | isa.K, 0, 0, 1)


def quick_test(
    ethernet: Sequence[Classic], raw_ip: Sequence[Classic]
) -> tuple[Classic, ...] | None:
    """Return a program with the result 0 only for packets that match neither of two filters.

    Args:
        ethernet: The filter for packets that begin with Ethernet.
        raw_ip: The filter for packets that begin with IP.

    Returns:
        None if a packet may match ``raw_ip`` although it does not begin with IP, if a filter reads
        the length of packets, or if it is very long.
    """
    if len(ethernet) > _LONGEST or any(each.reads_length for each in (*ethernet, *raw_ip)):
        return None
    if tuple(ethernet) == tuple(raw_ip):
        return tuple(ethernet)
    if not _only_ip(raw_ip):
        return None
    begins_with_ip = (
        _FIRST_BYTE,
        # 0x40 and 0x60, and no other version, become 0x40.
        Classic(isa.ALU | isa.AND | isa.K, 0, 0, 0xD0),
        Classic(_IS_EQUAL, 0, 1, 0x40),
        _MAY_MATCH,
    )
    return (*begins_with_ip, *ethernet)


def _only_ip(program: Sequence[Classic]) -> bool:
    """Return whether a program returns 0 for each packet whose first byte has no version of IP."""
    # An instruction, and what A is there: the first byte, the version in it, or anything else.
    waiting, seen = [(0, "other")], set()
    while waiting:
        state = waiting.pop()
        if state in seen:
            continue
        seen.add(state)
        at, accumulator = state
        each = program[at]
        if each.klass == RET and (each.code, each.k) != (RET | isa.K, 0):
            return False
        if each == _FIRST_BYTE:
            after = "byte"
        elif accumulator == "byte" and (each.code, each.k) == _VERSION:
            after = "version"
        else:
            after = "other" if each.writes == "A" else accumulator
        ways = successors(at, each)
        if accumulator == "version" and each.code == _IS_EQUAL and each.k in _VERSIONS:
            ways = ways[1:]
        waiting += [(to, after) for to in ways]
    return True
