# SPDX-License-Identifier: Apache-2.0
"""The flow tables in the kernel: their sizes, and what reads them."""

from functools import partial

import numpy as np

from xdpscope.attach.engine import Engine
from xdpscope.attach.variants import FlowSizes
from xdpscope.config import Flows
from xdpscope.kernel import machine
from xdpscope.libbpf import Map, possible_cpus
from xdpscope.probes.flows.slots import FAMILIES, SlotTable

_ONLY_KEY = b"\0\0\0\0"


def flow_sizes(flows: Flows) -> FlowSizes | None:
    """Return the sizes of the tables for a configuration. None if flows are not counted."""
    if not flows.enabled:
        return None
    return FlowSizes.for_entries(
        flows.max_entries, flows.sample_rate, machine.cpus_to_serve(), possible_cpus()
    )


def flow_tables(engine: Engine) -> list[SlotTable]:
    """Return what reads the flow tables of an engine. Empty if flows are not counted."""
    sizes, btf = engine.flow_sizes, engine.templates.btf
    if sizes is None:
        return []
    taken = engine.shared_map(".data.taken")
    return [
        SlotTable(
            family,
            engine.shared_map(family.map),
            btf.struct(family.record),
            btf.struct(family.key),
            partial(_is_set, taken, at),
            adopted=engine.templates.adopted,
            sets=sizes.sets,
        )
        for at, family in enumerate(FAMILIES)
    ]


def _is_set(taken: Map, at: int) -> bool:
    """Return one of the flags in ``taken`` of ``bpf/common/flow_table.h``."""
    return bool(taken.lookup(_ONLY_KEY)[0].view(np.uint32)[at])
