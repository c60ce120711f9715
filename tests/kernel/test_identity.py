# SPDX-License-Identifier: Apache-2.0
"""Which number stands for a network namespace: the tracers and discovery go by the same one."""

import pytest

from tests.kernel.lab import Lab, frame
from tests.kernel.namespaces import expect, locations, namespace
from xdpscope.attach.engine import Engine
from xdpscope.attach.reason import Selection
from xdpscope.attach.templates import FlowSizes
from xdpscope.discovery.interfaces import InterfaceSource
from xdpscope.discovery.inventory import Inventory
from xdpscope.kernel import netns
from xdpscope.observer import Observer

pytestmark = pytest.mark.every_kernel


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
