# SPDX-License-Identifier: Apache-2.0
"""Outcomes after the verdict: known failures, read back as metrics to the packet."""

import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from errno import EMFILE
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.kernel.agent import QUICK, AgentProcess
from tests.kernel.conftest import kernel
from tests.kernel.lab import Lab, Veth, frame
from tests.kernel.namespaces import namespace, path_of
from tests.kernel.xsk import XdpSocket
from tests.waiting import wait_for
from xdpscope.config import Outcomes
from xdpscope.counters.clients import READER
from xdpscope.discovery.inventory import Inventory
from xdpscope.errors import LoadError
from xdpscope.libbpf import Btf, Map, Object, Program, run_time_stats
from xdpscope.probes import Scan
from xdpscope.probes.outcomes import OutcomesProbe, tracepoints

pytestmark = pytest.mark.every_kernel

PACKETS = 40
SMALL, LARGE = frame(60), frame(500)
MODES = ["native", "generic"]

Series = dict[tuple[str, ...], float]


def soon(condition: Callable[[], object]) -> None:
    """Wait for what takes a moment, even on an emulated machine."""
    wait_for(condition, patience=30)


def expect(read: Callable[[], Series], expected: Series) -> None:
    """Fail unless this is read soon, and a moment later still no more."""
    end = time.monotonic() + 30
    while read() != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert read() == expected


class ProbePage:
    """A probe and what it shows after a scan."""

    def __init__(self, inventory: Inventory, patience: float = 0) -> None:
        self.probe = OutcomesProbe(patience)
        self._inventory = inventory
        self._registry = CollectorRegistry()
        self._registry.register(self.probe)  # type: ignore[arg-type]

    def scan(self) -> None:
        self.probe.update(Scan(self._inventory.take()))

    def series(self, metric: str, *labels: str) -> Series:
        """Scan; return the series of a metric that are not 0, by some of their labels."""
        self.scan()
        found: Series = {}
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name == metric and sample.value:
                    key = tuple(sample.labels[label] for label in labels)
                    found[key] = found.get(key, 0) + sample.value
        return found

    def errors(self) -> Series:
        return self.series("xdp_redirect_errors_total", "program", "interface", "error")

    def exceptions(self) -> Series:
        return self.series("xdp_exceptions_total", "program", "interface", "verdict")

    def transmitted(self) -> Series:
        labels = "from_interface", "to_interface", "result"
        return self.series("xdp_devmap_transmit_packets_total", *labels)

    def sent_back(self) -> Series:
        return self.series("xdp_tx_packets_total", "interface", "result")

    def cpumap(self) -> Series:
        return self.series("xdp_cpumap_packets_total", "result")

    def lost(self) -> Series:
        return self.series("xdpscope_lost_events_total", "stream")


@pytest.fixture
def page() -> Iterator[ProbePage]:
    with Inventory() as inventory:
        page = ProbePage(inventory)
        page.scan()
        yield page
        assert page.lost() == {}
        page.probe.close()


FUNCTIONS = (
    "redirect_to_index", "redirect_to_device", "redirect_to_cpu", "redirect_to_socket", "send_back",
    "abort_with_a_long_name", "return_seventy_seven", "arrive",
)  # fmt: skip


class Road:
    """Packets arrive on ``xsin``, and may leave by ``xsout``, at whose peer all are counted."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.loaded = lab.load_together("outcomes", *FUNCTIONS)
        self.source = lab.veth("xsin")
        self.target = lab.veth("xsout")
        peer = Veth(self.target.peer, self.target.name, lab.index(self.target.peer))
        lab.attach(self.loaded["arrive"], peer)
        self.loaded.put("target", 0, self.target.index)
        self.loaded.put("devices", 0, self.target.index)

    def run(self, program: str, mode: str, data: bytes = SMALL, times: int = PACKETS) -> None:
        """Attach a program, send packets, and wait until it has seen all of them."""
        self.lab.attach(self.loaded[program], self.source, mode)
        before = self.seen
        self.source.send(data, times=times)
        soon(lambda: self.seen - before == times)

    def _count(self, which: int) -> int:
        with self.loaded._object.map("seen") as found:
            (count,) = struct.unpack("=I", found.lookup(struct.pack("=I", which)).tobytes())
            return int(count)

    @property
    def seen(self) -> int:
        """Packets that a program saw that redirects, or sends back."""
        return self._count(0)

    @property
    def arrived(self) -> int:
        return self._count(1)

    def shrink(self, interface: str) -> None:
        """Make an interface too narrow for the large packets."""
        self.lab.route.link("set", index=self.lab.index(interface), mtu=100)

    def down(self) -> None:
        self.lab.route.link("set", index=self.target.index, state="down")


@pytest.fixture
def road(lab: Lab) -> Road:
    return Road(lab)


# Redirects that fail.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["redirect_to_index", "redirect_to_device"])
@pytest.mark.parametrize("error", ["ENETDOWN", "EMSGSIZE"])
def test_a_target_that_cannot_take_packets(
    road: Road, page: ProbePage, way: str, mode: str, error: str
) -> None:
    road.run(way, mode, LARGE)
    soon(lambda: road.arrived == PACKETS)
    assert page.errors() == {}
    if error == "ENETDOWN":
        road.down()
    else:
        road.shrink(road.target.name)
    road.run(way, mode, LARGE, times=7)
    expect(page.errors, {(way, "xsin", error): 7})
    assert road.seen == road.arrived + 7


@pytest.mark.first_kernel
@pytest.mark.parametrize("mode", MODES)
def test_no_interface_of_this_number(road: Road, page: ProbePage, mode: str) -> None:
    road.loaded.put("target", 0, 999_999)
    road.run("redirect_to_index", mode)
    expect(page.errors, {("redirect_to_index", "xsin", "EINVAL"): PACKETS})
    assert page.exceptions() == {}


@pytest.mark.first_kernel
@pytest.mark.parametrize("mode", MODES)
def test_a_map_without_the_entry(road: Road, page: ProbePage, mode: str) -> None:
    """bpf_redirect_map() itself returns the fallback, here XDP_ABORTED: no redirect is tried."""
    road.loaded.take_out("devices", 0)
    road.run("redirect_to_device", mode)
    expect(page.exceptions, {("redirect_to_device", "xsin", "aborted"): PACKETS})
    assert page.errors() == {}


@pytest.mark.parametrize("way", ["redirect_to_index", "redirect_to_device"])
def test_a_driver_that_takes_no_frames(road: Road, page: ProbePage, way: str) -> None:
    road.loaded.put("target", 0, 1)  # lo
    road.loaded.put("devices", 0, 1)
    road.run(way, "native")
    expect(page.errors, {(way, "xsin", "EOPNOTSUPP"): PACKETS})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("problem", ["unbound", "elsewhere", "empty", "full", "narrow"])
def test_a_socket_that_takes_no_packet(
    road: Road, page: ProbePage, mode: str, problem: str
) -> None:
    if (problem, mode) == ("unbound", "generic") and kernel() < (6, 1):
        pytest.skip("Linux 5.10 crashes: its xsk_generic_rcv() reads the pool of an unbound socket")
    expected = {
        "unbound": {"ENXIO"} if kernel() >= (6, 1) else {"EINVAL"},
        "elsewhere": {"EINVAL"},
        "empty": {"ENOMEM", "ENOSPC"},  # from 6.0 on, and before
        "full": {"ENOBUFS", "ENOSPC"},  # the same
        "narrow": {"ENOSPC"},
    }[problem]
    program = road.loaded["redirect_to_socket"]
    road.lab.attach(program, road.source, mode)
    with XdpSocket(rx=2, headroom=1000 if problem == "narrow" else 0) as opened:
        if problem != "unbound":
            interface = road.target if problem == "elsewhere" else road.source
            opened.bind(interface.index)
        if problem in ("full", "narrow"):
            opened.fill(16)
        road.loaded.put("sockets", 0, opened.fileno())
        delivered = 2 if problem == "full" else 0
        road.run("redirect_to_socket", mode, frame(900))

        def failed() -> bool:
            return sum(page.errors().values()) == PACKETS - delivered

        soon(failed)
        ((function, interface_name, error),) = page.errors()
        assert (function, interface_name) == ("redirect_to_socket", "xsin")
        assert error in expected
        road.loaded.take_out("sockets", 0)


# What happens after a redirect.


@pytest.mark.first_kernel
@pytest.mark.parametrize("way", ["redirect_to_index", "redirect_to_device"])
def test_a_driver_that_sends_and_drops(road: Road, page: ProbePage, way: str) -> None:
    """The peer is narrower than the interface itself: only the driver finds out."""
    road.run(way, "native", LARGE, times=30)
    expect(page.transmitted, {("xsin", "xsout", "sent"): 30})
    road.shrink(road.target.peer)
    road.run(way, "native", LARGE, times=9)
    road.run(way, "native", SMALL, times=4)
    expected = {("xsin", "xsout", "sent"): 34, ("xsin", "xsout", "dropped"): 9}
    expect(page.transmitted, expected)
    assert page.errors() == page.exceptions() == {}
    assert road.seen == 43 and road.arrived == 34


@contextmanager
def alone_on(cpu: int) -> Iterator[None]:
    """Run on one CPU, before all threads of the kernel that are there, too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)


def generic_cpumap() -> bool:
    with Btf.of_kernel() as btf:
        return btf.has_function("cpu_map_generic_redirect")  # 5.15


def counts_drops_of_the_stack() -> bool:
    """Return whether xdp_cpumap_kthread counts packets as dropped that the stack has no use for, as
    all of the tests. Since 5.13 the thread hands over lists, and no longer knows.
    """
    return kernel() < (5, 13)


@pytest.mark.first_kernel
@pytest.mark.parametrize("mode", MODES)
def test_a_cpu_that_is_slow(road: Road, page: ProbePage, mode: str) -> None:
    """Its queue has room for four packets, and its thread is kept from running."""
    road.loaded.put("cpus", 0, 4)
    if mode == "generic" and not generic_cpumap():
        road.run("redirect_to_cpu", mode)
        expect(page.errors, {("redirect_to_cpu", "xsin", "EBADRQC"): PACKETS})
        assert page.cpumap() == {}
        return
    road.lab.attach(road.loaded["redirect_to_cpu"], road.source, mode)
    with road.source.sender() as sender, alone_on(0):
        for _ in range(PACKETS):
            sender.send(SMALL)
    soon(lambda: road.seen == PACKETS)

    def settled() -> bool:
        found = page.cpumap()
        if counts_drops_of_the_stack():
            return found[("dropped",)] == PACKETS
        return found[("enqueued",)] == found[("processed",)]

    soon(settled)
    found = page.cpumap()
    if counts_drops_of_the_stack():
        assert ("processed",) not in found and 0 < found[("enqueued",)] < PACKETS
    else:
        assert found[("enqueued",)] + found[("dropped",)] == PACKETS, "each packet once"
    if mode == "generic":
        dropped = page.cpumap()[("dropped",)]
        assert page.errors() == {("redirect_to_cpu", "xsin", "ENOSPC"): dropped}
    else:
        assert page.errors() == {}


def test_a_cpu_that_takes_all(road: Road, page: ProbePage) -> None:
    road.loaded.put("cpus", 0, 256)
    road.run("redirect_to_cpu", "native")
    end = "dropped" if counts_drops_of_the_stack() else "processed"
    expect(page.cpumap, {("enqueued",): PACKETS, (end,): PACKETS})
    (map_id,) = page.series("xdp_cpumap_packets_total", "map_id")
    with Map.open(int(map_id[0])) as found:
        assert found.info.name == "cpus"


# Verdicts that fail.


@pytest.mark.parametrize("mode", MODES)
def test_an_abort_and_no_verdict(lab: Lab, road: Road, page: ProbePage, mode: str) -> None:
    expected = {}
    for program, verdict, times in (
        ("abort_with_a_long_name", "aborted", 5),
        ("return_seventy_seven", "unknown", 6),
    ):
        lab.attach(road.loaded[program], road.source, mode)
        road.source.send(SMALL, times=times)
        expected[program, "xsin", verdict] = times
        expect(page.exceptions, expected)
    ids = {id for (id,) in page.series("xdp_exceptions_total", "program_id")}
    programs = "abort_with_a_long_name", "return_seventy_seven"
    assert ids == {str(road.loaded[each].info().id) for each in programs}


def test_a_device_that_cannot_send_back(road: Road, page: ProbePage) -> None:
    """The other end of the pair takes no frames until it runs a program, too."""
    road.run("send_back", "native", times=11)
    expect(page.sent_back, {("xsin", "dropped"): 11})
    peer = Veth(road.source.peer, road.source.name, road.lab.index(road.source.peer))
    road.lab.attach(road.loaded["arrive"], peer)
    road.run("send_back", "native", times=13)
    expect(page.sent_back, {("xsin", "dropped"): 11, ("xsin", "sent"): 13})
    assert road.seen == 24 and road.arrived == 13


# Where, and for how long.


@pytest.mark.first_kernel
def test_namespaces_with_the_same_ifindex(road: Road, page: ProbePage) -> None:
    program = road.loaded["abort_with_a_long_name"]
    with namespace("xs-one", program) as one, namespace("xs-two", program) as two:
        assert one.veth.index == two.veth.index and one.inode != two.inode
        one.send(3)
        two.send(5)
        labels = "program", "netns", "interface"
        expected = {
            ("abort_with_a_long_name", "xs-one", "eth0"): 3,
            ("abort_with_a_long_name", "xs-two", "eth0"): 5,
        }
        expect(partial(page.series, "xdp_exceptions_total", *labels), expected)


@pytest.mark.first_kernel
def test_a_target_in_another_namespace(road: Road, page: ProbePage) -> None:
    """A devmap keeps its device, and so its redirects go on, when the source moves away."""
    with road.lab.namespace("xs-away") as name:
        road.lab.attach(road.loaded["redirect_to_device"], road.source)
        with Path(path_of(name)).open("rb") as there:
            road.lab.route.link("set", index=road.source.index, net_ns_fd=there.fileno())
        with road.lab.within(name) as lab:
            lab.route.link("set", index=lab.index("xsin"), state="up")
            lab.attach(road.loaded["redirect_to_device"], Veth("xsin", "", lab.index("xsin")))
        carrier = Path(f"/sys/class/net/{road.source.peer}/carrier")
        soon(lambda: carrier.read_text().strip() == "1")
        road.source.send(SMALL, times=3)
        labels = "netns", "from_interface", "to_interface", "result"
        expected = {("xs-away", "xsin", "host/xsout", "sent"): 3.0}
        expect(partial(page.series, "xdp_devmap_transmit_packets_total", *labels), expected)


@pytest.mark.first_kernel
def test_a_renamed_interface_takes_nothing_along(road: Road, page: ProbePage) -> None:
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    road.source.send(SMALL, times=3)
    function = "abort_with_a_long_name"
    expect(page.exceptions, {(function, "xsin", "aborted"): 3})
    index = road.source.index
    road.lab.route.link("set", index=index, state="down")
    road.lab.route.link("set", index=index, ifname="xsnew")
    road.lab.route.link("set", index=index, state="up")
    page.scan()
    road.source.send(SMALL, times=4)
    expected = {(function, "xsin", "aborted"): 3, (function, "xsnew", "aborted"): 4}
    expect(page.exceptions, expected)
    road.lab.route.link("del", index=index)


@pytest.mark.first_kernel
def test_a_redirect_that_succeeds_runs_no_program_for_errors(road: Road, page: ProbePage) -> None:
    with ExitStack() as stack:
        programs = {}
        for id in Program.ids():
            program = stack.enter_context(Program.open(id))
            programs[program.info().name] = program
        stack.enter_context(run_time_stats())
        road.run("redirect_to_device", "native", times=64)
        expect(page.transmitted, {("xsin", "xsout", "sent"): 64})
        errors = [name for name in programs if name.startswith(("xdp_redirect_", "xdp_exception"))]
        assert {name: programs[name].info().run_count for name in errors} == dict.fromkeys(
            errors, 0
        )
        assert "xdp_exception" in errors
        assert 1 <= programs["xdp_devmap_xmit"].info().run_count <= 64


@pytest.mark.first_kernel
def test_switched_off_and_on(road: Road, page: ProbePage) -> None:

    assert "xdp_exception" in loaded_tracepoints()
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    road.source.send(SMALL, times=3)
    one = ("abort_with_a_long_name", "xsin", "aborted")
    expect(page.exceptions, {one: 3})
    page.probe.reconfigure(Outcomes(enabled=False))
    assert page.exceptions() == {}
    soon(lambda: "xdp_exception" not in loaded_tracepoints())
    road.source.send(SMALL, times=10)
    page.probe.reconfigure(Outcomes())
    assert page.exceptions() == {one: 3}, "no counter decreases"
    road.source.send(SMALL, times=2)
    expect(page.exceptions, {one: 5})


def loaded_tracepoints() -> set[str]:
    names = set()
    for id in Program.ids():
        try:
            with Program.open(id) as program:
                names.add(program.info().name)
        except OSError:
            continue
    return names


# What this kernel and this driver report.


@pytest.mark.first_kernel
@pytest.mark.parametrize("mode", MODES)
def test_what_is_reported(road: Road, page: ProbePage, mode: str) -> None:
    road.lab.attach(road.loaded["redirect_to_cpu"], road.source, mode)
    reported = {
        outcome
        for interface, outcome in page.series("xdp_outcome_supported", "interface", "outcome")
        if interface == "xsin"
    }
    everything = {"exception", "redirect_error", "devmap_transmit", "tx", "cpumap"}
    silent = {"devmap_transmit", "tx"} if mode == "generic" else set()
    assert reported == everything - silent


@pytest.mark.first_kernel
def test_a_kernel_without_a_tracepoint(
    road: Road, page: ProbePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Btf.find

    def without(btf: Btf, name: str, kind: int) -> int | None:
        return None if name == "btf_trace_xdp_bulk_tx" else find(btf, name, kind)

    monkeypatch.setattr(Btf, "find", without)
    page.probe.close()
    with capture_logs() as log:
        page.scan()
        page.scan()
    assert [(each["outcome"], each["log_level"]) for each in log] == [("tx", "warning")]
    road.run("send_back", "native", times=3)
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    road.source.send(SMALL, times=2)
    soon(lambda: sum(page.exceptions().values()) == 2)
    assert page.sent_back() == {}
    supported = page.series("xdp_outcome_supported", "interface", "outcome")
    assert ("xsin", "exception") in supported and ("xsin", "tx") not in supported


@pytest.mark.first_kernel
def test_a_kernel_that_refuses_one_program(
    road: Road, page: ProbePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, chosen = Object.load, Object.set_autoload
    names: list[str] = []

    def set_autoload(loaded: Object, *wanted: str) -> None:
        names[:] = wanted
        chosen(loaded, *wanted)

    def refuse(loaded: Object) -> None:
        if "xdp_devmap_xmit" in names:
            raise LoadError("loading failed", 13)
        load(loaded)

    page.probe.close()
    monkeypatch.setattr(Object, "set_autoload", set_autoload)
    monkeypatch.setattr(Object, "load", refuse)
    with capture_logs() as log:
        page.scan()
    left_out = [each["outcome"] for each in log if each["log_level"] == "warning"]
    assert left_out == [str(tracepoints.Outcome.DEVMAP_TRANSMIT)]
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    road.source.send(SMALL, times=2)
    soon(lambda: sum(page.exceptions().values()) == 2)


@pytest.mark.first_kernel
def test_without_descriptors_it_attaches_later(
    road: Road, page: ProbePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel verifies a program before it reserves a descriptor: there is a log, too."""

    def refuse(_: Object) -> None:
        raise LoadError("loading failed", EMFILE, "processed 95 insns")

    page.probe.close()
    with monkeypatch.context() as patch:
        patch.setattr(Object, "load", refuse)
        for _ in range(2):
            with pytest.raises(LoadError):
                page.scan()
    page.scan()
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    road.source.send(SMALL, times=2)
    soon(lambda: sum(page.exceptions().values()) == 2)


@pytest.mark.first_kernel
def test_a_scraper_sees_a_new_series_at_zero(road: Road) -> None:
    """Until it has, at most a minute, the series stays at 0."""
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    one = ("abort_with_a_long_name", "xsin", "aborted")
    token = READER.set("a scraper")
    try:
        with Inventory() as inventory:
            page = ProbePage(inventory, patience=60)
            page.scan()
            road.source.send(SMALL, times=3)
            time.sleep(0.5)
            shown = [page.exceptions() for _ in range(3)]
            assert shown == [{}, {one: 3}, {one: 3}]
            page.probe.close()
    finally:
        READER.reset(token)


@pytest.mark.matrix
def test_the_agent_counts_and_begins_at_zero(road: Road) -> None:
    """A scraper sees a new series at 0 before it sees its value."""
    road.lab.attach(road.loaded["abort_with_a_long_name"], road.source)
    with AgentProcess(QUICK) as agent:
        agent.ready()
        soon(lambda: agent.value("xdp_outcome_supported", interface="xsin") is not None)
        road.source.send(SMALL, times=3)
        values: list[float | None] = []

        def counted() -> bool:
            values.append(agent.value("xdp_exceptions_total", interface="xsin"))
            return values[-1] == 3

        soon(counted)
        assert next(value for value in values if value is not None) == 0
        assert set(values) <= {None, 0, 3}
        assert agent.value("xdpscope_lost_events_total", stream="outcomes") == 0
        assert agent.value("xdpscope_collector_success", collector="outcomes") == 1
        assert agent.stop() == 0
