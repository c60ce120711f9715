# SPDX-License-Identifier: Apache-2.0
"""Which sequences of instructions may alter the packet: what is not known to be harmless may."""

import pytest

from xdpscope.attach.packet_writes import writes_packets
from xdpscope.libbpf import Instruction

HELPER = 5

# Opcodes of RFC 9669, written out: the test must not share a mistake with the code.
EXIT = Instruction(0x95, 0, 0, 0, 0)
CALL = Instruction(0x85, 0, 0, 0, HELPER)


def constant(register: int, value: int) -> Instruction:
    return Instruction(0xB7, register, 0, 0, value)


def copy(register: int, source: int) -> Instruction:
    return Instruction(0xBF, register, source, 0, 0)


def load(register: int, base: int, offset: int = 0) -> Instruction:
    return Instruction(0x79, register, base, offset, 0)


def store(base: int, offset: int, register: int) -> Instruction:
    return Instruction(0x7B, base, register, offset, 0)


def atomic(base: int, offset: int, register: int, operation: int, size: int = 0xDB) -> Instruction:
    return Instruction(size, base, register, offset, operation)


ADD, FETCH_ADD, FETCH_OR, XCHG, CMPXCHG = 0x00, 0x01, 0x41, 0xE1, 0xF1
LOAD_ACQUIRE, STORE_RELEASE = 0x100, 0x110
PACKET = load(2, 1)  # r2 = xdp->data
WRITES = Instruction(0x72, 2, 0, 0, 1)  # *(u8 *)r2 = 1
WRITES_R0 = Instruction(0x72, 0, 0, 0, 1)
ENDS = (constant(0, 2), EXIT)
FAR = Instruction(0x06, 0, 0, 0, 1)  # gotol: to the second instruction after this one
MAP_VALUE = (Instruction(0x18, 3, 2, 0, 1), Instruction(0, 0, 0, 0, 0))

ALTERS = {
    "a store": (PACKET, WRITES, *ENDS),
    "a store behind the saved pointer": (PACKET, store(10, -8, 2), load(2, 10, -8), WRITES, *ENDS),
    # The atomic operation leaves the pointer in its register.
    "atomic add of the pointer": (
        PACKET, constant(3, 0), store(10, -8, 3), atomic(10, -8, 2, ADD), WRITES, *ENDS,
    ),
    "atomic add that clears no r0": (
        load(0, 1), constant(3, 1), store(10, -8, 3), atomic(10, -8, 3, ADD), WRITES_R0, *ENDS,
    ),
    "exchange with the saved pointer": (
        PACKET, store(10, -8, 2), constant(2, 0), atomic(10, -8, 2, XCHG), WRITES, *ENDS,
    ),
    "exchange that saves the pointer": (
        PACKET, constant(3, 0), store(10, -8, 3), atomic(10, -8, 2, XCHG), load(2, 10, -8), WRITES,
        *ENDS,
    ),
    "compare and exchange with the saved pointer": (
        PACKET, store(10, -8, 2), constant(0, 0), constant(3, 0), atomic(10, -8, 3, CMPXCHG),
        WRITES_R0, *ENDS,
    ),
    "fetch and add with the saved pointer": (
        PACKET, store(10, -8, 2), constant(2, 0), atomic(10, -8, 2, FETCH_ADD), WRITES, *ENDS,
    ),
    "fetch through another register": (
        PACKET, store(10, -8, 2), copy(4, 10), constant(2, 0), atomic(4, -8, 2, FETCH_OR), WRITES,
        *ENDS,
    ),
    "load-acquire": (PACKET, store(10, -8, 2), atomic(2, -8, 10, LOAD_ACQUIRE), WRITES, *ENDS),
    "load-acquire of the packet's pointer": (atomic(2, 0, 1, LOAD_ACQUIRE), WRITES, *ENDS),
    "store-release": (
        PACKET, atomic(10, -8, 2, STORE_RELEASE), load(2, 10, -8), WRITES, *ENDS,
    ),
    "store-release, 32 bits": (
        PACKET, constant(3, 0), atomic(2, 0, 3, STORE_RELEASE, 0xD3), *ENDS,
    ),
    "indirect jump": (
        PACKET, *MAP_VALUE, load(3, 3), Instruction(0x0D, 3, 0, 0, 0), *ENDS, WRITES, *ENDS,
    ),
    "far jump": (PACKET, constant(3, 0), FAR, EXIT, WRITES, *ENDS),
    "a jump of unknown kind": (Instruction(0xE5, 0, 0, 1, 0), *ENDS),
    "a call that keeps its arguments": (PACKET, CALL, WRITES, *ENDS),
    "a call of an unknown helper": (Instruction(0x85, 0, 0, 0, HELPER + 1), *ENDS),
    "a call of a function": (Instruction(0x85, 0, 1, 0, 1), EXIT, *ENDS),
    "a call of a kernel function": (Instruction(0x85, 0, 2, 0, HELPER), *ENDS),
    "a callback": (Instruction(0x18, 3, 4, 0, 2), Instruction(0, 0, 0, 0, 0), *ENDS),
    "a store into an arena": (constant(3, 0), Instruction(0xBB, 3, 3, 0, 0), *ENDS),
    "a move with an unknown meaning": (PACKET, Instruction(0xBF, 2, 2, 1, 0), *ENDS),
    "arithmetic that is not defined": (Instruction(0xE7, 2, 0, 0, 0), *ENDS),
    "a load of an old kind": (Instruction(0x30, 0, 0, 0, 0), *ENDS),
    "a register that does not exist": (Instruction(0xBF, 12, 1, 0, 0), *ENDS),
    "a jump out of the program": (Instruction(0x05, 0, 0, 9, 0),),
}  # fmt: skip

KEEPS = {
    "nothing": ENDS,
    "atomic add to a map": (
        *MAP_VALUE, constant(2, 1), atomic(3, 0, 2, ADD), atomic(3, 8, 2, FETCH_ADD, 0xC3), *ENDS,
    ),
    "atomic add of the length": (
        load(2, 1, 8), load(4, 1), Instruction(0x1F, 2, 4, 0, 0), *MAP_VALUE,
        atomic(3, 0, 2, FETCH_ADD), store(10, -8, 2), load(4, 10, -8), store(3, 0, 4), *ENDS,
    ),
    "compare and exchange in a map": (
        *MAP_VALUE, constant(0, 0), constant(2, 1), atomic(3, 0, 2, CMPXCHG), store(3, 8, 0), *ENDS,
    ),
    "a known helper": (CALL, *ENDS),
    "a barrier against speculation": (Instruction(0xC2, 0, 0, 0, 0), *ENDS),
    "a load that extends the sign": (PACKET, Instruction(0x91, 3, 2, 0, 0), *ENDS),
    "far jump": (constant(3, 0), FAR, EXIT, *ENDS),
    "per-CPU address": (*MAP_VALUE, Instruction(0xBF, 3, 3, -1, 0), store(3, 0, 3), *ENDS),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERS)
def test_may_alter(name: str) -> None:
    assert writes_packets(ALTERS[name], {HELPER})


@pytest.mark.parametrize("name", KEEPS)
def test_certainly_does_not(name: str) -> None:
    assert not writes_packets(KEEPS[name], {HELPER})
