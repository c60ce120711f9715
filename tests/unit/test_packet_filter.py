# SPDX-License-Identifier: Apache-2.0
"""Packet filters: mistakes are shown, and a translation computes what libpcap computes."""

import faulthandler
import time
from collections.abc import Sequence
from random import Random

import pytest
from tests.bench.filters import EXPENSIVE, SLOW
from tests.bench.rig import packet4, packet6
from tests.tools.expressions import expressions
from tests.tools.interpreter import Machine
from tests.tools.packets import made
from tests.tools.random_filters import packet, program
from tests.tools.reference import Reference

from xdpscope import __main__ as command
from xdpscope.cli import parser, sessions
from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Instruction
from xdpscope.sessions.packet_filter import FilterError, PacketFilter, Reader, libpcap
from xdpscope.sessions.packet_filter.assembler import TooLongError
from xdpscope.sessions.packet_filter.classic import Classic, check
from xdpscope.sessions.packet_filter.expression import MAX_LENGTH, REFUSED
from xdpscope.sessions.packet_filter.translate import translate
from xdpscope.sessions.packet_filter.translation import Cast, StackError
from xdpscope.sessions.tracers import Plan

CAST = Cast(function=1, type=2, array=16)
READERS: tuple[Reader, ...] = ("plain", "cast", "copy")

RET, LD_ABS_W, LD_IMM, JA = 0x06, 0x20, 0x00, 0x05


@pytest.mark.parametrize(
    ("number", "seed"), [(700, 1), pytest.param(34_000, 2, marks=pytest.mark.nightly)]
)
@pytest.mark.timeout(3000)
def test_a_translation_computes_what_libpcap_computes(number: int, seed: int) -> None:
    """30 packets for each program: 21,000 pairs, 1,020,000 nightly; a reader for each program."""
    matched = certain = 0
    for each in range(number):
        random = Random(f"{seed} {each}")
        classic = program(random)
        reference = Reference(classic)
        assert check(classic) is None and reference.is_valid()
        reader = READERS[each % 3]
        translated = translate(classic, reader, CAST, depth=8)
        ending = translate(classic, reader, CAST, depth=8, ends=True)
        for _ in range(30):
            linear = packet(random)
            length = len(linear) + random.choice((0, 0, 6, 70_000))
            expected = reference.run(linear, length)
            matched += bool(expected)
            found = Machine(linear, len(linear), length).run(translated)
            assert found == expected, (each, reader, classic, linear, length)
            found = Machine(linear, len(linear), length).run(ending)
            assert found in (expected, 1), (each, reader, classic, linear, length)
            certain += found == expected
    assert 0.1 < matched / (30 * number) < 0.9
    assert certain / (30 * number) > 0.7


@pytest.mark.parametrize("reader", READERS)
def test_a_quick_test_fails_no_packet_that_matches(reader: Reader) -> None:
    """Whether a packet begins with Ethernet, with IP, or with anything else on a device for IP."""
    frames = made()[::3]
    frames += [frame[14:] for frame in frames] + [bytes([first]) * 60 for first in range(256)]
    quick = ended = 0
    for text in expressions():
        found = PacketFilter.compile(text)
        if found.quick is None:
            continue
        quick += 1
        instructions = translate(found.quick, reader, CAST, ends=True)
        references = [Reference(found.ethernet), Reference(found.raw_ip)]
        for frame in frames:
            if Machine(frame, len(frame), len(frame)).run(instructions) == 0:
                ended += 1
                assert not any(each.run(frame, len(frame)) for each in references), text
    assert quick > 180 and ended / (quick * len(frames)) > 0.3


@pytest.mark.parametrize("reader", READERS)
def test_a_test_that_every_packet_fails_leaves_a_way_on(reader: Reader) -> None:
    """The verifier refuses instructions that no packet gets to."""
    for text in ("ether[100000000] = 1", "udp"):
        quick = PacketFilter.compile(text).quick
        assert quick is not None
        codes = [each.code for each in translate(quick, reader, CAST, ends=True)]
        assert (0x95 in codes) == (text == "udp")  # BPF_EXIT


def test_a_filter_that_may_match_what_is_not_ip_has_no_quick_test() -> None:
    for text in ("not tcp", "len > 100", "not (ip or ip6)", "udp and greater 100"):
        assert PacketFilter.compile(text).quick is None, text


def test_each_primitive_selects_what_libpcap_selects() -> None:
    frames = made()[::3]
    selecting = set()
    for text in expressions():
        classic = PacketFilter.compile(text).ethernet
        reference = Reference(classic)
        instructions = translate(classic, "copy")
        for frame in frames:
            expected = reference.run(frame, len(frame))
            assert Machine(frame, len(frame), len(frame)).run(instructions) == expected, text
            if expected:
                selecting.add(text)
    assert len(selecting) > 170


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("classic", "expected"),
    [
        ([Classic(RET, 0, 0, 0)], 0),
        ([Classic(RET, 0, 0, 0), Classic(RET, 0, 0, 5)], 0),
        ([Classic(JA, 0, 0, 1), Classic(RET, 0, 0, 0), Classic(RET, 0, 0, 5)], 5),
        ([Classic(LD_ABS_W, 0, 0, 0xFFFFFFFF), Classic(RET, 0, 0, 5)], 0),
        ([Classic(LD_ABS_W, 0, 0, 1 << 24), Classic(RET, 0, 0, 5)], 0),
        # A word of memory that nobody wrote, shifted by as many bits as it has: both are 0.
        ([Classic(0x60, 0, 0, 3), Classic(RET | 0x10, 0, 0, 0)], 0),
        ([Classic(LD_IMM, 0, 0, 7), Classic(0x64, 0, 0, 32), Classic(RET | 0x10, 0, 0, 0)], 0),
    ],
)
def test_corners(reader: Reader, classic: list[Classic], expected: int) -> None:
    assert Machine(bytes(64), 64, 64).run(translate(classic, reader, CAST)) == expected


@pytest.mark.parametrize(
    ("text", "message", "pointed"),
    [
        ("tcp port 80 and and udp", "syntax error", (16, 3)),
        ("foo", "syntax error", (0, 3)),
        ("tcp port 80 or", "syntax error", (14, 1)),
        ("(tcp or udp", "syntax error", (11, 1)),
        ("host 1.2.3.4 and port 99999", "illegal port number 99999 > 65535", (22, 5)),
        ("tcp port 53 and port foo-bar", "unknown port 'foo-bar'", (21, 7)),
        ("host 300.1.1.1 or ip", "300.1.1.1", (5, 9)),
        ("ip6 host 10.0.0.1", "'ip6' modifier applied to", (0, 3)),
        ("ip[0]/0 = 1", "division by zero", (6, 1)),
        ("ip\nand\tand ip", "syntax error", (7, 3)),
        ("ip6 host fe80::1::2", "syntax error", (9, 10)),
    ],
)
def test_a_caret_points_to_the_mistake(text: str, message: str, pointed: tuple[int, int]) -> None:
    with pytest.raises(FilterError) as caught:
        PacketFilter.compile(text)
    said, shown, caret = str(caught.value).split("\n")
    assert message in said
    assert shown == "    " + text.replace("\n", " ").replace("\t", " ")
    assert (len(caret) - len(caret.lstrip()) - 4, len(caret.lstrip())) == pointed


def test_a_long_line_is_cut_around_the_mistake() -> None:
    with pytest.raises(FilterError) as caught:
        PacketFilter.compile("tcp or " * 60 + "prot 80" + " or udp" * 60)
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 90
    at = caret.index("^")
    assert shown[at : at + 4] == "prot"


def test_a_filter_that_selects_nothing_has_no_caret() -> None:
    with pytest.raises(FilterError, match=r"\Aexpression rejects all packets\Z"):
        PacketFilter.compile("tcp and udp")


@pytest.mark.parametrize("word", sorted(REFUSED))
def test_what_makes_no_sense_here_is_refused_by_name(word: str) -> None:
    with pytest.raises(FilterError, match=f"the filter uses '{word}'") as caught:
        PacketFilter.compile(f"ip and {word} 1")
    assert str(caught.value).splitlines()[1:] == [
        f"    ip and {word} 1",
        "           ^" + "~" * (len(word) - 1),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a\0b", "ip\x1b[31m", "ip or é", "x" * (MAX_LENGTH + 1), "(" * MAX_LENGTH, "-" * 9999,
        "ip[" * 4000, "(" * 2000 + "foo" + ")" * 2000, "ip[0] = 99999999999999999999",
        "ip[0:3] = 1", "ip[0] = 1 << 32", "@", "\\", "'", '"', "$", "port -1",
        "1", "ether host 1:2:3", "net 10.0.0.0/33", "net 10.0.0.1/8", "ip[0] +", "host", "%s%n",
        "mpls 1048576", "vlan 4096", "ip broadcast", "+".join(["ip[0]"] * 1000) + "= ip[1] )",
    ],
)  # fmt: skip
def test_a_malicious_filter_is_refused_with_a_message(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(FilterError) as caught:
        PacketFilter.compile(text)
    assert str(caught.value)
    assert all(len(line) < 200 and line.isprintable() for line in str(caught.value).split("\n"))
    assert time.monotonic() - began < 120


def test_libpcap_has_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpcap, "_PATIENCE", 1)
    hosts = " or ".join(f"host 10.0.{number >> 8}.{number & 255}" for number in range(800))
    with pytest.raises(FilterError, match="libpcap takes longer than 1 s for this filter"):
        PacketFilter.compile(hosts)


def test_a_long_filter_is_compiled_as_a_short_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " or ".join(f"port {number}" for number in range(1000, 1060))
    apart = PacketFilter.compile(text)
    monkeypatch.setattr(libpcap, "_SHORT", MAX_LENGTH)
    assert PacketFilter.compile(text) == apart


def test_a_crash_of_libpcap_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        faulthandler.disable()  # pytest's: it would print a report of the crash that is wanted
        libpcap.ctypes.string_at(0)

    monkeypatch.setattr(libpcap, "_SHORT", 0)
    monkeypatch.setattr(libpcap, "_compile", crash)
    with pytest.raises(FilterError, match="libpcap crashes on this filter"):
        PacketFilter.compile("ip")


def test_without_libpcap_only_a_filter_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libpcap, "_NAMES", ("libpcap-is-not-here.so",))
    libpcap._library.cache_clear()
    assert PacketFilter.compile(" ").ethernet == PacketFilter.compile("").raw_ip
    with pytest.raises(XdpscopeError, match="needs libpcap, which is not installed") as caught:
        PacketFilter.compile("ip")
    assert not isinstance(caught.value, FilterError)
    assert "libpcap0.8" in str(caught.value.hint)
    libpcap._library.cache_clear()


def test_a_wrong_filter_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        parser, "parse", lambda _: parser.argparse.Namespace(log_level=None, log_format=None)
    )
    monkeypatch.setattr(parser, "dispatch", lambda _: PacketFilter.compile("tcp prot 80"))
    assert command.main([]) == 2
    assert capsys.readouterr().err.endswith("\n    tcp prot 80\n        ^~~~\n")


def test_what_a_filter_says_of_itself() -> None:
    found = PacketFilter.compile("vlan 5 and len > 100")
    assert found.uses_length and found.uses_vlan
    assert found.raw_ip_error and not Machine(bytes(64), 64, 64).run(
        translate(found.raw_ip, "plain")
    )
    other = PacketFilter.compile("tcp port 80")
    assert not (other.uses_length or other.uses_vlan or other.raw_ip_error)
    assert PacketFilter.compile("less 60").uses_length
    assert PacketFilter.compile("ether proto \\ip and not ip6").raw_ip_error is None


@pytest.mark.parametrize(
    ("classic", "why"),
    [
        ([], "0 instructions"),
        ([Classic(RET, 0, 0, 0)] * 4097, "4097 instructions"),
        ([Classic(0xFF, 0, 0, 0), Classic(RET, 0, 0, 0)], "unknown code"),
        ([Classic(JA, 0, 0, 0xFFFFFFFF), Classic(RET, 0, 0, 0)], "jumps behind the end"),
        ([Classic(0x15, 1, 0, 0), Classic(RET, 0, 0, 0)], "jumps behind the end"),
        ([Classic(0x34, 0, 0, 0), Classic(RET, 0, 0, 0)], "divides by the constant 0"),
        ([Classic(0x60, 0, 0, 16), Classic(RET, 0, 0, 0)], "memory word 16"),
        ([Classic(LD_IMM, 0, 0, 0)], "does not return"),
    ],
)
def test_programs_that_cannot_run_are_refused(classic: list[Classic], why: str) -> None:
    assert why in str(check(classic))


def test_too_much_stack_or_too_far_a_jump_is_an_error() -> None:
    words = [Classic(0x02, 0, 0, word) for word in range(16)]
    with pytest.raises(StackError):
        translate([*words, Classic(RET, 0, 0, 1)], "plain", depth=512 - 8 * 15)
    divisions = [Classic(0x3C, 0, 0, 0), Classic(0x6C, 0, 0, 0)] * 2047
    translate([*divisions, Classic(RET, 0, 0, 1)], "plain")
    loads = [Classic(0x40, 0, 0, 1), Classic(0x3C, 0, 0, 0)] * 2047
    with pytest.raises(TooLongError):
        translate([*loads, Classic(RET, 0, 0, 1)], "cast", CAST)


def test_an_inner_filter_says_that_it_is_wrong_or_matches_ethernet_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def inner(*arguments: str) -> PacketFilter | None:
        return sessions.inner_of(parser.parse(["trace", *arguments]))

    with pytest.raises(FilterError, match=r"\A--inner: .*syntax error\n    tcp prot 80\n"):
        inner("--inner", "tcp prot 80")
    assert inner() is None
    everything = inner("--inner", "")
    assert everything is not None and everything.ethernet == everything.raw_ip
    assert inner("--inner", "udp port 53") is not None
    assert capsys.readouterr().err == ""
    assert inner("--inner", "vlan 5") is not None
    assert "no packet that is not Ethernet" in capsys.readouterr().err


def test_a_filter_for_what_is_inside_needs_the_packet_as_it_arrives() -> None:
    tunnelled = Plan(entry=False, inner=PacketFilter.compile("udp"))
    assert tunnelled.programs(writes_packets=True) == ("capture_exit", "capture_entry")
    assert tunnelled.programs(writes_packets=False) == ("capture_exit_only",)


@pytest.mark.parametrize("packet", [packet4(), packet6()])
@pytest.mark.parametrize("reader", READERS)
def test_the_most_expensive_filters_are_those_that_are_measured(
    packet: bytes, reader: Reader
) -> None:
    """For a packet that does not match, up to two instructions; a helper's call stands for 85."""

    class Counting(Machine):
        steps = 0

        def _step(self, at: int, each: Instruction) -> int:
            self.steps += 85 if each.calls_helper else 1
            return super()._step(at, each)

    def steps(classic: Sequence[Classic], *, ends: bool) -> int:
        machine = Counting(packet, len(packet), len(packet))
        matches = machine.run(translate(classic, reader, CAST, ends=ends))
        return 0 if matches else machine.steps

    found = [PacketFilter.compile(text) for text in expressions()]
    quick = {each.expression: steps(each.quick, ends=True) for each in found if each.quick}
    others = {each.expression: steps(each.ethernet, ends=False) for each in found if not each.quick}
    assert quick[EXPENSIVE] >= max(quick.values()) - 2
    assert others[SLOW] >= max(others.values()) - 2
