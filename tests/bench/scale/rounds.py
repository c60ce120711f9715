# SPDX-License-Identifier: Apache-2.0
"""Discovery as the agent does it, without tracing: natively run in a namespace of its own."""

import json
import statistics
import time

from tests.bench.scale import PROGRAMS
from tests.bench.scale.crowd import crowd
from xdpscope import log
from xdpscope.discovery.inventory import Inventory

_ROUNDS = 10


def seconds_of_round() -> float:
    """Return what a round takes of a CPU, the first aside, which reads what never changes."""
    with Inventory() as inventory:
        inventory.take()
        return statistics.median(_round(inventory) for _ in range(_ROUNDS))


def _round(inventory: Inventory) -> float:
    before = time.process_time()
    found = inventory.take()
    spent = time.process_time() - before
    if len(found.attachments) != PROGRAMS:
        raise AssertionError(f"{len(found.attachments)} programs found")
    return spent


if __name__ == "__main__":
    log.configure("info", "json")  # to the standard error: the result is on the standard output
    with crowd(PROGRAMS):
        print(json.dumps(seconds_of_round()))
