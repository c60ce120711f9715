# SPDX-License-Identifier: Apache-2.0
"""The targets of all tracing links on the host: fentry, fexit and freplace."""

from collections.abc import Collection

from xdpscope.discovery.retry import Retries, check_capability
from xdpscope.errors import KernelError, VanishedError
from xdpscope.libbpf import Link, LinkEnds


class TracingLinks:
    """Walks the kernel's links; what a link joins never changes and is asked for once."""

    def __init__(self) -> None:
        self._known: dict[int, LinkEnds | None] = {}  # None: it cannot be read
        self._unreadable = Retries()
        self._found: Collection[LinkEnds] = []

    def read(self) -> Collection[LinkEnds]:
        """Return every link whose target the kernel reports; none before Linux 5.13.

        The result is the same object as the last time, if there are the same links. A link that
        cannot be read is omitted, and tried again later. Each link holds a reference on its
        target.

        Raises:
            NotPermittedError: CAP_SYS_ADMIN is missing.
        """
        ids = list(Link.ids())
        if ids == list(self._known) and not self._unreadable.due:
            return self._found
        known: dict[int, LinkEnds | None] = {}
        for id in ids:
            ends = self._known.get(id)
            if id not in self._known or self._unreadable.is_due(id):
                try:
                    with Link.open(id) as link:
                        ends = link.ends()
                except VanishedError:
                    continue
                except KernelError as error:
                    check_capability(error)
                    self._unreadable.failed(id, error)
                else:
                    self._unreadable.succeeded(id)
            known[id] = ends
        self._unreadable.keep(known)
        self._known = known
        self._found = [ends for ends in known.values() if ends is not None and ends.target]
        return self._found
