# SPDX-License-Identifier: Apache-2.0
"""Programs on a bond, whose packets come by its lower devices; and on a team, where they do not."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2.netlink.exceptions import NetlinkError

from tests.kernel.conftest import expect, reasons
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.namespaces import inside, namespace, path_of
from tests.kernel.observing import Observer
from tests.kernel.test_lifecycle import link_targets  # noqa: F401 - a fixture
from tests.waiting import wait_for
from xdpscope.__main__ import main
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import GlobFilter
from xdpscope.discovery.inventory import Inventory
from xdpscope.discovery.model import Attachment, Mode
from xdpscope.libbpf import Btf
from xdpscope.libbpf.stats import run_time_stats

pytestmark = pytest.mark.every_kernel

BALANCE_RR, ACTIVE_BACKUP, BALANCE_XOR = 0, 1, 2


@pytest.fixture(autouse=True)
def passes_on() -> None:
    """Skip where a bond takes no native program."""
    with Btf.of_kernel() as btf:
        if not btf.has_function("xdp_master_redirect"):
            pytest.skip("a bond takes no program in native mode before Linux 5.15")


class Bond:
    """A bond and what is below it."""

    def __init__(self, lab: Lab, name: str, mode: int, *lower: Veth) -> None:
        self._lab = lab
        self.name = name
        lab.route.link("add", ifname=name, kind="bond", bond_mode=mode)
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        self.veth = Veth(name, lower[0].peer if lower else "", lab.index(name))
        for each in lower:
            self.add(each)
        lab.route.link("set", index=self.veth.index, state="up")

    def add(self, lower: Veth) -> None:
        """Make an interface a lower device of the bond."""
        self._lab.route.link("set", index=lower.index, state="down")
        self._lab.route.link("set", index=lower.index, master=self.veth.index)
        self._wait_for_carrier(lower)

    def remove(self, lower: Veth) -> None:
        """Take a lower device out of the bond, and set it up again."""
        self._lab.route.link("set", index=lower.index, master=0)
        self._lab.route.link("set", index=lower.index, state="up")
        self._wait_for_carrier(lower)

    def _wait_for_carrier(self, lower: Veth) -> None:
        """Wait until the other end sends again: while this one was down it had no carrier.

        The kernel drops what is sent until a work queue notices the carrier, for up to a second
        (net/core/link_watch.c).
        """
        if lower.peer:
            wait_for(lambda: self._lab.is_up(lower.peer), interval=0.02)


@contextmanager
def bond(lab: Lab, mode: int, *lower: Veth, name: str = "xstb") -> Iterator[Bond]:
    """Make a bond of the lab's namespace, taken away at the end."""
    made = Bond(lab, name, mode, *lower)
    try:
        yield made
    finally:
        lab.route.link("del", index=made.veth.index)


def attachments(observer: Observer, function: str = "decide_drop") -> tuple[Attachment, ...]:
    (found,) = [s for s in observer.statuses() if s.program.function == function]
    return found.attachments


def on_bond(*lower: str, name: str = "xstb", netns: str = "host") -> tuple[Attachment, ...]:
    """Return the bond itself, where no packet comes by, and its lower devices."""
    return (
        Attachment(netns, name, Mode.NATIVE, receives=False),
        *(Attachment(netns, each, Mode.NATIVE, via=name) for each in lower),
    )


def shown(observer: Observer) -> dict[str, int]:
    """Packets by interface, of everything that has series: with those at 0."""
    return {count.location[1]: sum(count.tally.packets) for count in observer.counts()}


@pytest.mark.parametrize("mode", [BALANCE_RR, ACTIVE_BACKUP, BALANCE_XOR])
def test_lower_devices_receive_the_packets(lab: Lab, observer: Observer, mode: int) -> None:
    """By a bond's inactive device, too: programs run before the bond ignores a packet."""
    first, second, other = (lab.veth(f"xst{number}") for number in range(3))
    program = lab.load("decide_drop")
    with bond(lab, mode, first, second) as made:
        lab.attach(program, made.veth)
        lab.attach(program, other)
        observer.scan(0)
        assert attachments(observer) == (
            Attachment("host", "xst2", Mode.NATIVE),
            *on_bond("xst0", "xst1"),
        )
        assert shown(observer) == {"xst0": 0, "xst1": 0, "xst2": 0}
        first.send(frame(60), times=3)
        second.send(frame(60), times=4)
        other.send(frame(60), times=5)
        expect(
            observer,
            {
                ("decide_drop", "xst0", "drop"): (3, 180),
                ("decide_drop", "xst1", "drop"): (4, 240),
                ("decide_drop", "xst2", "drop"): (5, 300),
            },
        )
        assert set(shown(observer)) == {"xst0", "xst1", "xst2"}


@pytest.mark.first_kernel
def test_generic_mode_runs_on_the_bond_itself(lab: Lab, observer: Observer) -> None:
    lower = lab.veth("xst0")
    with bond(lab, BALANCE_RR, lower) as made:
        lab.attach(lab.load("decide_drop"), made.veth, "generic")
        observer.scan(0)
        assert attachments(observer) == (Attachment("host", "xstb", Mode.GENERIC),)
        assert shown(observer) == {"xstb": 0}
        lower.send(frame(60), times=3)
        expect(observer, {("decide_drop", "xstb", "drop"): (3, 180)})


def test_a_team_runs_generic_programs_itself(lab: Lab, observer: Observer) -> None:
    """It passes nothing on: the kernel refuses native mode on it."""
    lower = lab.veth("xst0")
    try:
        lab.route.link("add", ifname="xstteam", kind="team")
    except NetlinkError:
        pytest.skip("this kernel has no team")
    index = lab.index("xstteam")
    try:
        team = Veth("xstteam", lower.peer, index)
        program = lab.load("decide_drop")
        with pytest.raises(NetlinkError):
            lab.attach(program, team)
        lab.attach(program, team, "generic")
        lab.route.link("set", index=lower.index, state="down")
        lab.route.link("set", index=lower.index, master=index)
        observer.scan(0)
        assert attachments(observer) == (Attachment("host", "xstteam", Mode.GENERIC),)
        assert shown(observer) == {"xstteam": 0}
    finally:
        lab.route.link("del", index=index)


@pytest.mark.first_kernel
def test_a_lower_device_with_a_program_of_its_own(lab: Lab, observer: Observer) -> None:
    lower = lab.veth("xst0")
    with bond(lab, BALANCE_RR, lower):
        lab.attach(lab.load("decide_drop"), lower)
        observer.scan(0)
        assert attachments(observer) == (Attachment("host", "xst0", Mode.NATIVE),)
        lower.send(frame(60), times=3)
        expect(observer, {("decide_drop", "xst0", "drop"): (3, 180)})


@pytest.mark.first_kernel
def test_a_bond_in_a_bond(lab: Lab, observer: Observer) -> None:
    lower = lab.veth("xst0")
    with bond(lab, BALANCE_RR, lower) as inner, bond(lab, BALANCE_RR, name="xstouter") as outer:
        try:
            outer.add(inner.veth)
        except NetlinkError:
            pytest.skip("this kernel takes no bond into a bond")
        for each in (inner, outer):
            lab.route.link("set", index=each.veth.index, state="up")
        lab.attach(lab.load("decide_drop"), outer.veth)
        observer.reconfigure(Selection(interfaces=GlobFilter(include=("xstouter",))))
        observer.scan(0)
        assert attachments(observer) == on_bond("xst0", name="xstouter")
        lower.send(frame(60), times=3)
        expect(observer, {("decide_drop", "xst0", "drop"): (3, 180)})


@pytest.mark.first_kernel
@pytest.mark.parametrize(
    ("interfaces", "expected"),
    [
        (GlobFilter(include=("xstb",)), {"xst0": 3, "xst1": 4}),
        (GlobFilter(include=("xst1",)), {"xst1": 4}),
        (GlobFilter(exclude=("xst1",)), {"xst0": 3, "xst2": 5}),
        (GlobFilter(exclude=("xstb",)), {"xst2": 5}),
        (GlobFilter(include=("xst2",)), {"xst2": 5}),
    ],
)
def test_the_bond_selects_its_lower_devices(
    lab: Lab, interfaces: GlobFilter, expected: dict[str, int]
) -> None:
    """Of verdicts and of flows."""
    first, second, other = (lab.veth(f"xst{number}") for number in range(3))
    program = lab.load("decide_drop")
    selection = Selection(interfaces=interfaces)
    with (
        bond(lab, BALANCE_RR, first, second) as made,
        Engine(FlowSizes(sets=64, sample_rate=1)) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, selection) as observer,
    ):
        lab.attach(program, made.veth)
        lab.attach(program, other)
        observer.scan(0)
        assert reasons(observer) == {"decide_drop": ""}
        for times, veth in ((3, first), (4, second), (5, other)):
            veth.send(frame(60), times=times)
        wait_for(lambda: shown(observer) == expected, patience=20)
        report = observer.flow_counts()
        assert report is not None
        assert {count.location[1] for count in report.unaccounted} == set(expected)


def test_lower_devices_come_and_go_under_traffic(lab: Lab, engine: Engine) -> None:
    """Each packet once; a device that has left the bond still has its last counts shown."""
    first, second = lab.veth("xst0"), lab.veth("xst1")
    program = lab.load("decide_drop")
    selection = Selection(interfaces=GlobFilter(include=("xstb",)))
    with (
        bond(lab, BALANCE_RR, first) as made,
        Inventory() as inventory,
        Observer(engine, inventory, selection) as observer,
        run_time_stats(),
    ):
        lab.attach(program, made.veth)
        observer.scan(0)
        before: dict[str, int] = {}
        with first.sending(frame(60)) as here, second.sending(frame(60)) as there:
            for _ in range(3):
                made.add(second)
                observer.scan(0)
                assert attachments(observer) == on_bond("xst0", "xst1")
                enough = here.sent + 20, there.sent + 20
                wait_for(lambda at=enough: (here.sent, there.sent) > at and there.sent > at[1])
                made.remove(second)
                observer.scan(0)
                assert attachments(observer) == on_bond("xst0")
                now = shown(observer)
                assert now.keys() == {"xst0", "xst1"}
                assert all(now[name] >= packets for name, packets in before.items())
                assert now["xst1"] > before.get("xst1", 0)
                before = now
        time.sleep(0.2)
        observer.scan(0)
        packets = shown(observer)
        assert sum(packets.values()) == program.info().run_count
        second.send(frame(60), times=7)
        first.send(frame(60), times=5)
        wait_for(lambda: shown(observer)["xst0"] == packets["xst0"] + 5, patience=20)
        assert shown(observer)["xst1"] == packets["xst1"], "it is not in the bond any more"


@pytest.mark.first_kernel
def test_an_empty_bond_is_ready_for_its_first_lower_device(lab: Lab, observer: Observer) -> None:
    with bond(lab, ACTIVE_BACKUP) as made:
        lab.attach(lab.load("decide_drop"), made.veth)
        observer.scan(0)
        assert attachments(observer) == on_bond()
        assert reasons(observer) == {"decide_drop": ""}
        assert shown(observer) == {}
        lower = lab.veth("xst0")
        made.add(lower)
        lab.route.link("set", index=made.veth.index, state="up")
        lower.send(frame(60), times=3)
        observer.scan(0)
        expect(observer, {("decide_drop", "xst0", "drop"): (3, 180)})


@pytest.mark.first_kernel
def test_a_bond_of_another_namespace(lab: Lab, observer: Observer) -> None:
    """With the names, and the indices, of one in ours."""
    program = lab.load("decide_drop")
    with bond(lab, BALANCE_RR, lab.veth("xst0")) as here, namespace("xst1", program):
        lab.attach(lab.load("decide_pass"), here.veth)
        with inside(path_of("xst1")) as there:
            lower = there.veth("xst0")
            with bond(there, BALANCE_RR, lower) as made:
                there.attach(program, made.veth)
                observer.scan(0)
                assert attachments(observer) == (
                    Attachment("xst1", "eth0", Mode.NATIVE),
                    *on_bond("xst0", netns="xst1"),
                )
                assert attachments(observer, "decide_pass") == on_bond("xst0")
                lower.send(frame(60), times=3)
                expect(observer, {("decide_drop", "xst0", "drop"): (3, 180)})


@pytest.mark.first_kernel
def test_list_shows_the_bond_and_its_lower_devices(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    with bond(lab, ACTIVE_BACKUP, lab.veth("xst0"), lab.veth("xst1")) as made:
        lab.attach(lab.load("decide_drop"), made.veth)
        assert main(["list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "xstb (native)" in text
    assert text.index("xstb (native)") < text.index("xst0 via xstb") < text.index("xst1 via xstb")
