# SPDX-License-Identifier: Apache-2.0
"""A verdict selects pairs, also of a dispatcher and its component, and on several CPUs."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from tests.kernel import pcapng
from tests.kernel.lab import Lab, Veth
from tests.kernel.sessions import DECAPSULATE, instructed, running
from tests.kernel.test_capture import DROPPED, after
from tests.kernel.test_lifecycle import extension_of

SENDERS = 4
_PAUSE_AFTER = 50
"""Fewer packets than a pair of veth has room for."""


def send(veth: Veth, cpu: int, numbers: range) -> None:
    """Send packets to be decapsulated, from one CPU, where they are received, too."""
    os.sched_setaffinity(0, {cpu})
    for at in range(0, len(numbers), _PAUSE_AFTER):
        veth.send(*(instructed(DECAPSULATE, n) for n in numbers[at : at + _PAUSE_AFTER]))
        time.sleep(0.002)


@pytest.mark.first_kernel
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(2_000, marks=pytest.mark.at_once),
        pytest.param(10_000, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.timeout(600)
@pytest.mark.every_kernel
def test_one_packet_of_a_hundred_is_dropped_after_decapsulation(
    lab: Lab, tmp_path: Path, number: int
) -> None:
    """Exactly these are captured, once for each program, as they were sent and as they left."""
    veths = [lab.veth(f"xst{at}") for at in range(SENDERS)]
    cpus = sorted(os.sched_getaffinity(0))
    path = tmp_path / "x.pcapng"
    dispatcher = lab.load("xdp_dispatcher", "sessions")
    share, context = number // SENDERS, multiprocessing.get_context("fork")
    senders = [
        context.Process(
            target=send,
            args=(veth, cpus[at % len(cpus)], range(1, number + 1)[at * share :][:share]),
        )
        for at, veth in enumerate(veths)
    ]
    with (
        extension_of(dispatcher, "prog0", "component", "sessions") as extension,
        extension.attached(),
    ):
        for veth in veths:
            lab.attach(dispatcher, veth)
        with running("capture", "-w", str(path), "--verdict", "drop") as command:
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            time.sleep(1)
            _, errors = command.finish()
        for veth in veths:
            lab.attach(None, veth)

    assert [sender.exitcode for sender in senders] == [0] * SENDERS
    assert not any(veth.lost for veth in veths)
    sent = sorted(instructed(DECAPSULATE, n) for n in range(100, number + 1, 100))
    file = pcapng.read(path)
    for program in ("xdp_dispatcher", "component"):
        entries = {p.id: p for p in file.at("fentry") if f":{program}()@" in p.interface}
        exits = {p.id: p for p in file.at("fexit") if f":{program}()@" in p.interface}
        assert entries.keys() == exits.keys()
        assert sorted(packet.data for packet in entries.values()) == sent
        assert {packet.verdict for packet in [*entries.values(), *exits.values()]} == {DROPPED}
        for identity, packet in entries.items():
            assert exits[identity].data == after(DECAPSULATE, packet.data)[0]
    assert len(file.packets) == 4 * len(sent)
    assert errors.count(f"{len(sent):,} captured, 0 lost, {len(sent):,} matched") == 4
