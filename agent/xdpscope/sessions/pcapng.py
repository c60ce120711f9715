# SPDX-License-Identifier: Apache-2.0
"""The blocks of a pcapng file other than packets, which ``libbpf/_pcapng.c`` writes. Pure.

See draft-ietf-opsawg-pcapng. All numbers are in this machine's byte order, as the format allows.
"""

import struct
from collections.abc import Iterable

ETHERNET, RAW_IP = 1, 101
"""Link types, LINKTYPE_ETHERNET and LINKTYPE_RAW."""

_SECTION, _INTERFACE, _STATISTICS = 0x0A0D0D0A, 1, 5
_COMMENT = 1
_LONGEST_OPTION = 0xFFFF

Option = tuple[int, bytes]


def section(application: str, system: str, comments: Iterable[str] = ()) -> bytes:
    """Return a section header: what wrote the file, and where."""
    body = struct.pack("=IHHq", 0x1A2B3C4D, 1, 0, -1)
    options = [_text(_COMMENT, each) for each in comments]
    return _block(_SECTION, body, [*options, _text(3, system), _text(4, application)])


def interface(
    name: str, link_type: int, snaplen: int, *, filter: str = "", comments: Iterable[str] = ()
) -> bytes:
    """Return an interface description; timestamps are in nanoseconds."""
    options = [_text(_COMMENT, each) for each in comments]
    options += [_text(2, name), (9, b"\x09")]
    if filter:
        options.append((11, b"\0" + filter.encode()))
    return _block(_INTERFACE, struct.pack("=HHI", link_type, 0, snaplen), options)


def statistics(
    number: int, started_ns: int, ended_ns: int, *, matched: int, lost: int, written: int
) -> bytes:
    """Return what was counted of an interface since the capture began; Unix times."""
    counts = {4: matched, 5: lost, 6: matched, 7: lost, 8: written}
    options = [(2, _time(started_ns)), (3, _time(ended_ns))]
    options += [(code, struct.pack("=Q", count)) for code, count in counts.items()]
    return _block(_STATISTICS, struct.pack("=I", number) + _time(ended_ns), options)


def _time(ns: int) -> bytes:
    return struct.pack("=II", ns >> 32, ns & 0xFFFFFFFF)


def _text(code: int, text: str) -> Option:
    return code, text.encode()[:_LONGEST_OPTION]


def _block(kind: int, body: bytes, options: Iterable[Option]) -> bytes:
    for code, value in options:
        body += struct.pack("=HH", code, len(value)) + value + b"\0" * (-len(value) % 4)
    body += struct.pack("=HH", 0, 0)  # no more options
    size = len(body) + 12
    return struct.pack("=II", kind, size) + body + struct.pack("=I", size)
