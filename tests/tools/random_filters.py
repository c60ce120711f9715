# SPDX-License-Identifier: Apache-2.0
"""Random classic programs and packets, biased to edges of packets, wraps and zeroes."""

from random import Random

from xdpscope.libbpf import instruction as isa
from xdpscope.sessions.packet_filter import classic
from xdpscope.sessions.packet_filter.classic import Classic

_CONSTANTS = (0, 1, 2, 3, 4, 7, 8, 14, 20, 20, 20, 31, 32, 33, 0xFF, 0x800, 0xFFFF, 1 << 31)
_CONSTANTS += ((1 << 31) - 1, (1 << 32) - 1, (1 << 32) - 2, (1 << 32) - 4, 0xFFFFF000, 0xFFFFF030)


def _constant(random: Random) -> int:
    return random.choice(_CONSTANTS) if random.random() < 0.7 else random.getrandbits(32)


def _offset(random: Random) -> int:
    """Return an offset that is mostly in the packet."""
    if random.random() < 0.9:
        return random.randrange(random.choice((8, 24, 60, 130)))
    return random.choice((0x7EF0, 0x7FFF, 0x8000, (1 << 24) - 2, _constant(random)))


def program(random: Random) -> tuple[Classic, ...]:
    """Return a program that ``bpf_validate()`` accepts, and that ends for each packet.

    Memory words are written at the beginning: libpcap before 1.11 leaves them undefined.
    """
    size = random.choice((1, 3, 8, 20, 60))
    words = random.sample(range(16), random.randrange(4)) if random.random() < 0.5 else []
    start = [Classic(isa.LD | isa.IMM, 0, 0, 0)] if random.random() < 0.5 else []
    start += [Classic(isa.ST, 0, 0, word) for word in words]
    body = [_instruction(random, size - at, words) for at in range(size)]
    end = random.choice((isa.K, classic.A))
    return (*start, *body, Classic(classic.RET | end, 0, 0, _constant(random)))


def _instruction(random: Random, left: int, words: list[int]) -> Classic:
    """Return an instruction that may jump over up to ``left`` others."""
    choice = random.random()
    if choice < 0.35:
        code = random.choice(
            (
                *(isa.LD | size | mode for size in classic.SIZES for mode in (0x20, 0x40)),
                isa.LDX | classic.MSH | isa.B,
            )
        )
        indirect = code & 0xE0 == classic.IND
        return Classic(
            code, 0, 0, _constant(random) if indirect and random.random() < 0.2 else _offset(random)
        )
    if choice < 0.6:
        operation = random.choice(classic._ARITHMETIC)
        source = random.choice((isa.K, isa.X))
        k = _constant(random)
        if source == isa.K and operation in (isa.LSH, isa.RSH):
            k %= 32
        if source == isa.K and operation in (isa.DIV, isa.MOD):
            k = k or 5
        return Classic(isa.ALU | operation | source, 0, 0, k)
    if choice < 0.8:
        operation = random.choice((isa.JEQ, isa.JGT, isa.JGE, isa.JSET))
        source = random.choice((isa.K, isa.K, isa.X))
        jumps = [random.randrange(min(left, random.choice((2, 8, 255)))) for _ in range(2)]
        return Classic(isa.JMP | operation | source, *jumps, _constant(random))
    if choice < 0.83:
        return Classic(isa.JMP | isa.JA, 0, 0, random.randrange(left))
    if choice < 0.86:
        return Classic(classic.RET | random.choice((isa.K, classic.A)), 0, 0, _constant(random))
    kinds = [
        isa.LD | isa.IMM, isa.LDX | isa.IMM, isa.LD | classic.LEN,
        isa.LDX | classic.LEN, isa.ALU | isa.NEG, classic.MISC | classic.TAX,
        classic.MISC | classic.TXA,
    ]  # fmt: skip
    if words and random.random() < 0.5:
        code = random.choice((isa.ST, isa.STX, isa.LD | 0x60, isa.LDX | 0x60))
        return Classic(code, 0, 0, random.choice(words))
    return Classic(random.choice(kinds), 0, 0, _constant(random))


def packet(random: Random) -> bytes:
    """Return the first part of a packet: mostly numbers that programs compare with."""
    size = random.choice((0, 1, 2, 3, 4, 13, 14, 15, 20, 34, 38, 39, 40, 41, 54, 60, 64, 100, 130))
    if random.random() < 0.5:
        return random.randbytes(size)
    return bytes(random.choice((0, 0, 1, 4, 6, 8, 0x45, 255)) for _ in range(size))
