# SPDX-License-Identifier: Apache-2.0
"""Reads pcapng files, strictly: what is not as the format says fails."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6


@dataclass(frozen=True)
class Packet:
    """An enhanced packet block."""

    interface: str
    time: int  # ns
    length: int
    data: bytes
    options: dict[int, bytes]

    def number(self, option: int) -> int | None:
        value = self.options.get(option)
        return None if value is None else int.from_bytes(value, "little")

    @property
    def id(self) -> int | None:
        return self.number(5)

    @property
    def verdict(self) -> int | None:
        value = self.options.get(7)
        if value is None:
            return None
        assert value[0] == 2
        assert len(value) == 9
        return int.from_bytes(value[1:], "little")


@dataclass
class File:
    """What is in a file."""

    interfaces: list[str] = field(default_factory=list)
    comments: list[list[str]] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    statistics: dict[str, dict[int, int]] = field(default_factory=dict)

    def at(self, point: str) -> list[Packet]:
        """The packets at ``fentry`` or ``fexit``."""
        return [packet for packet in self.packets if packet.interface.endswith(f"@{point}")]


def _options(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        code, size = struct.unpack_from("=HH", data, at)
        if code == 0:
            assert at + 4 == len(data)
            break
        found.append((code, data[at + 4 : at + 4 + size]))
        at += 4 + (size + 3 & ~3)
    return found


def read(path: Path, *, cut: bool = False) -> File:
    """Read a file of one section; with ``cut``, its last block may be incomplete."""
    data, at, file = path.read_bytes(), 0, File()
    while at < len(data):
        if cut and (
            at + 8 > len(data) or at + int.from_bytes(data[at + 4 :][:4], "little") > len(data)
        ):
            break
        kind, size = struct.unpack_from("=II", data, at)
        assert size % 4 == 0
        assert struct.unpack_from("=I", data, at + size - 4)[0] == size
        body = data[at + 8 : at + size - 4]
        assert (kind == _SECTION) == (at == 0)
        at += size
        if kind == _SECTION:
            assert body[:8] == struct.pack("=IHH", 0x1A2B3C4D, 1, 0)
        elif kind == _INTERFACE:
            options = _options(body[8:])
            assert (9, b"\x09") in options
            file.interfaces.append(dict(options)[2].decode())
            file.comments.append([value.decode() for code, value in options if code == 1])
        elif kind == _PACKET:
            number, high, low, captured, length = struct.unpack_from("=IIIII", body)
            rest = body[20 + (captured + 3 & ~3) :]
            file.packets.append(
                Packet(
                    file.interfaces[number],
                    high << 32 | low,
                    length,
                    body[20 : 20 + captured],
                    dict(_options(rest)),
                )
            )
        elif kind == _STATISTICS:
            (number,) = struct.unpack_from("=I", body)
            file.statistics[file.interfaces[number]] = {
                code: int.from_bytes(value, "little") for code, value in _options(body[12:])
            }
        else:
            raise AssertionError(f"a block of type {kind}")
    return file
