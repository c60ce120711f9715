# SPDX-License-Identifier: Apache-2.0
"""The times that packets spent inside a program: the histograms of ``struct timing``."""

from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Any, Self

from numpy.typing import NDArray

# Buckets with smaller bounds are added to the first, and buckets with larger bounds to the last.
_FIRST, _LAST = 4, 26

BOUNDS = tuple(2**power / 1e9 for power in range(_FIRST, _LAST + 1))
"""The upper bounds of the buckets in seconds, without the last bucket, which has none: 16 ns to
67 ms."""


@dataclass(frozen=True, slots=True)
class Times:
    """Hold a histogram."""

    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """Packets by bucket: one for each of BOUNDS, and the rest."""
    seconds: float = 0.0
    """The sum of all times."""

    @classmethod
    def of(cls, timing: NDArray[Any]) -> Self:
        """Return the sum of ``struct timing``, shape (CPUs,)."""
        counts = timing["buckets"].sum(axis=0).tolist()
        inner = counts[_FIRST + 1 : _LAST + 1]
        buckets = sum(counts[: _FIRST + 1]), *inner, sum(counts[_LAST + 1 :])
        return cls(buckets, int(timing["total"].sum()) / 1e9)

    @property
    def packets(self) -> int:
        """Return the number of packets."""
        return sum(self.buckets)

    @property
    def cumulative(self) -> list[tuple[float, int]]:
        """Return each upper bound in seconds, and the number of packets up to it."""
        return list(zip((*BOUNDS, inf), accumulate(self.buckets), strict=True))

    def quantile(self, share: float) -> float | None:
        """Return an estimate in seconds, as PromQL's histogram_quantile. None without packets."""
        rank, before, lower = share * self.packets, 0, 0.0
        if not self.packets:
            return None
        for upper, packets in self.cumulative:
            if packets >= rank and packets > before:
                if upper == inf:
                    return lower
                return lower + (upper - lower) * (rank - before) / (packets - before)
            before, lower = packets, upper
        return lower
