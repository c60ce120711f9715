# SPDX-License-Identifier: Apache-2.0
"""The kernel's information about maps, read by opening them by their ids."""

from collections.abc import Iterable
from pathlib import Path

import structlog

from xdpscope.discovery.model import UNNAMED
from xdpscope.discovery.retry import Retries
from xdpscope.errors import KernelError, NotPermittedError, VanishedError
from xdpscope.libbpf import Map, map_type_name
from xdpscope.probes.maps.report import MapFacts

_log = structlog.get_logger(__name__)

_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC of include/uapi/linux/bpf.h

REOPENED_AT_ONCE = 64
"""Maps whose memory a scan reads again, at most. Each takes about 0.1 ms."""


class MapSource:
    """Opens each new map once, and maps whose memory changes again from time to time.

    A map is open for microseconds only. For that time it cannot disappear, and a prog array keeps
    its programs.
    """

    def __init__(self) -> None:
        self._known: dict[int, MapFacts] = {}
        # Maps whose memory grows with their entries, the oldest reading first.
        self._growing: dict[int, None] = {}
        self._failing: set[int] = set()
        self._retries = Retries()

    def read(self, ids: Iterable[int]) -> dict[int, MapFacts]:
        """Return the facts of these maps by id, in this order.

        A map that cannot be opened is left out, and tried again later.
        """
        wanted = dict.fromkeys(ids)
        self._known = {id: facts for id, facts in self._known.items() if id in wanted}
        self._growing = {id: None for id in self._growing if id in wanted}
        self._failing.intersection_update(wanted)
        self._retries.keep(wanted)
        again = list(self._growing)[:REOPENED_AT_ONCE]
        for id in wanted:
            if id not in self._known and (id not in self._failing or self._retries.is_due(id)):
                self._open(id)
        for id in again:
            self._open(id)
        return {id: self._known[id] for id in wanted if id in self._known}

    def _open(self, id: int) -> None:
        self._known.pop(id, None)
        self._growing.pop(id, None)
        try:
            with Map.open(id) as opened:
                info, memory = opened.info, _memory(opened)
        except VanishedError:
            return
        except KernelError as error:
            self._failing.add(id)
            if self._retries.failed(id, error):
                hint = "does a security module, such as SELinux, forbid it? See its audit log"
                more = {"hint": hint} if isinstance(error, NotPermittedError) else {}
                _log.warning(
                    "cannot read a map: it has no series", map_id=id, error=error.summary, **more
                )
            return
        self._failing.discard(id)
        self._retries.succeeded(id)
        self._known[id] = MapFacts(
            id, info.name or UNNAMED, map_type_name(info.type), info.max_entries, memory
        )
        if info.flags & _NO_PREALLOC:
            self._growing[id] = None


def _memory(opened: Map) -> int | None:
    """Return the map's memory in bytes, from ``memlock`` of its descriptor.

    From Linux 6.4 on it is the present memory, with per-CPU values, buckets and entries. Before
    6.4 it is computed from the sizes of key and value and the maximum number of entries (5.11). In
    5.10 it is the memory that was charged when the map was created.
    """
    try:
        text = Path(f"/proc/self/fdinfo/{opened.fileno()}").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "memlock":
            return int(value)
    return None
