# SPDX-License-Identifier: Apache-2.0
"""Which number stands for a network namespace: the tracers and discovery go by the same one."""

import struct

import pytest

from tests.kernel.lab import Lab, frame
from tests.kernel.namespaces import expect, locations, namespace
from tests.kernel.observing import Observer
from tests.kernel.programs import compiled
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.variants import FlowSizes
from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.inventory import Inventory
from xdpscope.kernel import netns
from xdpscope.libbpf import Link, Object

pytestmark = pytest.mark.every_kernel


@pytest.mark.first_kernel
@pytest.mark.parametrize("watch_devices", [True, False])
def test_without_the_socket_option_inode_numbers_are_gone_by(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, watch_devices: bool
) -> None:
    """Linux 5.12 and 5.13 have cookies, but no socket option that shows them."""
    monkeypatch.setattr(InterfaceSource, "namespace_cookie", None)
    monkeypatch.setattr(netns, "has_cookies", lambda: False, raising=False)
    sizes = FlowSizes(sets=2, sample_rate=1)
    program = lab.load("decide_drop")
    veth = lab.veth("xst0")
    lab.attach(program, veth)
    redirecting = lab.load_together("maps", "to_device", "where_it_leaves")
    lab.attach(redirecting["to_device"], lab.veth("xst1"))
    redirecting.put("devices", 0, lab.index("xst1p"), redirecting["where_it_leaves"])
    with (
        namespace("xstns", program) as other,
        Engine(sizes, watch_devices=watch_devices) as engine,
        Inventory() as inventory,
        Observer(engine, inventory, Selection()) as observer,
    ):
        for _ in range(3):
            observer.scan(1000)
        veth.send(frame(60), times=3)
        other.send(5)
        expect(observer, {("host", "xst0"): 3, ("xstns", "eth0"): 5})
        observer.scan(0)
        observer.scan(0)
        expect(observer, {("host", "xst0"): 3, ("xstns", "eth0"): 5})
        assert locations(observer)["where_it_leaves"] == {("host", "xst1p")}


def test_a_device_that_appears_while_another_is_identified(lab: Lab) -> None:
    """The record keeps the epoch from before, so the next packet's device is identified again.

    That device may be the one that appeared: it would have moved to another namespace, and the
    record would keep its old location.
    """
    target = lab.load("decide_drop")
    with Object(compiled("epoch")) as tracer:
        tracer.set_autoload("count_identified")
        tracer.set_attach_target("count_identified", target, "decide_drop")
        tracer.set_initial_value(".data.test", struct.pack("II", 1, 0))
        tracer.load()
        with (
            tracer.program("count_identified") as program,
            Link.trace(program, tracer.attach_type("count_identified")),
            tracer.map(".data.test") as test,
        ):
            identified = []
            for _ in range(3):
                target.test_run(frame(60))
                left, number = struct.unpack("II", test.lookup(bytes(4)).tobytes())
                assert left == 0
                identified.append(number)
    assert identified == [1, 2, 2]
