# SPDX-License-Identifier: Apache-2.0
"""What Hypothesis makes frames of that nobody would send: see odd_frames.py."""

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

_word = st.binary(min_size=2, max_size=2)
_protocol = st.sampled_from(
    [6, 17, 33, 136, 132, 1, 58, 6, 17, 47, 50, 59, 4, 41, 255]
) | st.integers(0, 255)
_transport = st.binary(min_size=12, max_size=24)


@st.composite
def _ipv4(draw: st.DrawFn) -> bytes:
    first = draw(st.sampled_from([0x45] * 8 + [0x46, 0x4F, 0x44, 0x40, 0x55, 0x65]))
    fragment = draw(st.sampled_from([0] * 6 + [0x4000, 0x2000, 0x8000, 1, 0x2001, 0x1FFF, 0x0100]))
    head = bytes([first, draw(st.integers(0, 255))]) + draw(_word) + draw(_word)
    head += fragment.to_bytes(2, "big") + bytes([64, draw(_protocol)]) + draw(_word)
    addresses = draw(st.binary(min_size=8, max_size=8))
    options = draw(st.binary(min_size=40, max_size=40))[: max(0, (first & 15) * 4 - 20)]
    return head + addresses + options + draw(_transport)


@st.composite
def _ipv6(draw: st.DrawFn) -> bytes:
    kinds = draw(
        st.just([])
        | st.lists(st.sampled_from([0, 43, 44, 51, 60]), min_size=1, max_size=3)
        | st.lists(st.sampled_from([0, 43, 44, 51, 60, 60]), min_size=5, max_size=8)
    )
    numbers = [*kinds, draw(_protocol)]
    first = draw(st.sampled_from([0x60] * 8 + [0x6F, 0x45, 0x70]))
    packet = bytes([first]) + draw(st.binary(min_size=3, max_size=3)) + draw(_word)
    packet += bytes([numbers[0], 64]) + draw(st.binary(min_size=32, max_size=32))
    for kind, following in zip(kinds, numbers[1:], strict=True):
        rest = draw(st.binary(min_size=40, max_size=40))
        length = draw(st.sampled_from([0, 0, 0, 1, 2, 4]))
        if kind == 44:
            offset = draw(st.sampled_from([0, 0, 1, 6, 8, 0xFFF8, 0xFFFF]))
            packet += bytes([following, length]) + offset.to_bytes(2, "big") + rest[:4]
        else:
            size = (length + 2) * 4 if kind == 51 else (length + 1) * 8
            packet += bytes([following, length]) + rest[: size - 2]
    return packet + draw(_transport)


@st.composite
def _layer2(draw: st.DrawFn) -> bytes:
    """Return what may be between Ethernet's addresses and the type of IP, and how that is
    written.
    """
    header = draw(st.sampled_from(["tag", "tag", "mpls", "pppoe"]))
    if header == "tag":
        kind = draw(st.sampled_from([0x8100, 0x88A8, 0x9100, 0x9200, 0x9300]))
        return kind.to_bytes(2, "big") + draw(_word)
    if header == "mpls":
        kind = draw(st.sampled_from([0x8847, 0x8848]))
        labels = draw(st.binary(min_size=4, max_size=12))
        return kind.to_bytes(2, "big") + labels[: len(labels) // 4 * 4]
    code = draw(st.sampled_from([b"\x11\0", b"\x11\0", b"\x11\0", b"\x11\x09", b"\x12\0"]))
    protocol = draw(st.sampled_from([0x21, 0x57, 0x281, 0xC021]))
    return b"\x88\x64" + code + draw(_word) + draw(_word) + protocol.to_bytes(2, "big")


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    headers = draw(st.lists(_layer2(), max_size=2) | st.lists(_layer2(), max_size=10))
    kind, packet = draw(
        st.tuples(st.just(b"\x08\0"), _ipv4())
        | st.tuples(st.just(b"\x86\xdd"), _ipv6())
        | st.tuples(
            st.sampled_from([b"\x08\0", b"\x86\xdd", b"\x08\x06", b"\x91\0"]) | _word,
            st.binary(min_size=30, max_size=80),
        )
    )
    # Labels and PPP have no room for a type of Ethernet.
    if headers and headers[-1][:2] in (b"\x88\x47", b"\x88\x48", b"\x88\x64"):
        kind = b""
    source = b"\x02\0\0\0\0" + bytes([draw(st.integers(0, 5))])
    return b"\x02\0\0\0\0\x02" + source + b"".join(headers) + kind + packet


def make(number: int) -> list[tuple[list[bytes], int]]:
    """Return so many examples: frames, and a seed."""
    made: list[tuple[list[bytes], int]] = []

    # Derandomised: the same frames each time.
    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(_frames(), min_size=16, max_size=24), st.integers(0, 2**32))
    def collect(frames: list[bytes], seed: int) -> None:
        made.append((frames, seed))

    collect()
    return made
