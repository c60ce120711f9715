# SPDX-License-Identifier: Apache-2.0
"""What links are on, while others make and take down theirs."""

from errno import EAGAIN
from typing import Self

import pytest

from xdpscope.discovery import links
from xdpscope.discovery.links import TracingLinks
from xdpscope.errors import VanishedError
from xdpscope.libbpf import LinkEnds


class Kernel:
    """Links by id, and what becomes of who opens one."""

    def __init__(self) -> None:
        self.links: dict[int, LinkEnds | VanishedError] = {}
        self.opened: list[int] = []

    def ids(self) -> list[int]:
        return list(self.links)

    def open(self, id: int) -> "Opened":
        self.opened.append(id)
        found = self.links[id]
        if isinstance(found, VanishedError):
            raise found
        return Opened(found)


class Opened:
    def __init__(self, ends: LinkEnds) -> None:
        self._ends = ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ends(self) -> LinkEnds:
        return self._ends


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(links, "Link", kernel)
    return kernel


def test_each_is_asked_once(kernel: Kernel) -> None:
    tracing = TracingLinks()
    kernel.links = {1: LinkEnds(7, 8, 9), 2: LinkEnds(7, 0, 0)}
    first = tracing.read()
    assert list(first) == [LinkEnds(7, 8, 9)]
    assert tracing.read() is first
    kernel.links[3] = LinkEnds(10, 8, 9)
    assert list(tracing.read()) == [LinkEnds(7, 8, 9), LinkEnds(10, 8, 9)]
    del kernel.links[1]
    assert list(tracing.read()) == [LinkEnds(10, 8, 9)]
    assert kernel.opened == [1, 2, 3]


def test_one_that_cannot_be_opened_is_asked_again(kernel: Kernel) -> None:
    tracing = TracingLinks()
    made = LinkEnds(7, 8, 9)
    kernel.links = {1: VanishedError("being made, or gone", EAGAIN), 2: made}
    assert list(tracing.read()) == [made]
    kernel.links[1] = made
    assert list(tracing.read()) == [made, made]
