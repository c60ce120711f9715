# SPDX-License-Identifier: Apache-2.0
"""Which reason a program has for not being traced, where several apply."""

import pytest

from xdpscope.attach.reason import Reason, Selection
from xdpscope.discovery.model import UNNAMED, Attachment, Mode, Role, Snapshot, XdpProgram

AT = (Attachment("host", "eth0", Mode.OFFLOAD),)


def program(**facts: object) -> XdpProgram:
    known: dict[str, object] = {
        "id": 7,
        "tag": "0" * 16,
        "name": "",
        "function": UNNAMED,
        "entry_type_id": 5,
        "jited": True,
        "attach_type": "xdp",
    }
    return XdpProgram(**(known | facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (program(), None),
        # The card has translated it, so the kernel shows no BTF and no native code.
        (program(offloaded=True, jited=False, entry_type_id=0), Reason.OFFLOADED),
        (program(jited=False), Reason.NOT_JITED),
        (program(entry_type_id=0), Reason.NO_BTF),
        (program(entry_problem="it takes no arguments"), Reason.UNSUPPORTED_ENTRY),
    ],
)
def test_reason(found: XdpProgram, reason: Reason | None) -> None:
    snapshot = Snapshot(programs={7: found}, attachments={7: AT})
    assert Selection().reason_against(found, snapshot) is reason


def test_an_extension_is_no_component() -> None:
    found = program(extension=True)
    snapshot = Snapshot(programs={7: found}, attachments={7: AT}, extensions=frozenset((7,)))
    assert Selection().reason_against(found, snapshot) is Reason.NO_VERDICT
    assert snapshot.part_of(found).role is Role.EXTENSION
    assert Snapshot().part_of(found).role is Role.COMPONENT
