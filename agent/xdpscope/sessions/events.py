# SPDX-License-Identifier: Apache-2.0
"""The events of the flight recorder: ``--on EVENT``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from xdpscope.sessions.selectors import VERDICTS

ALLOWED = f"a verdict ({', '.join(VERDICTS)}), drop>1000/s, drop-ratio>10% or SIGUSR1"
"""What an event may be, for messages."""

_NAMES = "|".join(VERDICTS)
_RATE = re.compile(rf"({_NAMES})>([0-9]+(?:\.[0-9]+)?)/s")
_RATIO = re.compile(rf"({_NAMES})-ratio>([0-9]+(?:\.[0-9]+)?)%")

WINDOW = 1.0
"""Seconds over which rates and ratios are taken."""


@dataclass(frozen=True, slots=True)
class Event:
    """When the flight recorder writes what it has."""

    text: str
    verdict: int | None = None  # as in ``VERDICTS``; None: SIGUSR1
    rate: float | None = None  # packets a second, to be exceeded
    ratio: float | None = None  # of all packets, to be exceeded

    @property
    def verdict_bits(self) -> int:
        """One bit for the verdict of which one packet is the event; else 0."""
        if self.verdict is None or self.rate is not None or self.ratio is not None:
            return 0
        return 1 << self.verdict


def parse(text: str) -> Event:
    """Return the event that a text names.

    Raises:
        ValueError: it names none.
    """
    plain = text.replace(" ", "")
    if plain.upper() in ("SIGUSR1", "USR1"):
        return Event(plain)
    name = plain.lower().removeprefix("xdp_")
    if name in VERDICTS:
        return Event(plain, VERDICTS.index(name))
    if match := _RATE.fullmatch(name):
        return Event(plain, VERDICTS.index(match[1]), rate=float(match[2]))
    match = _RATIO.fullmatch(name)
    if match and float(match[2]) < 100:
        return Event(plain, VERDICTS.index(match[1]), ratio=float(match[2]) / 100)
    raise ValueError(f"{text!r} is none of these: {ALLOWED}")


class Trigger:
    """Takes rates and ratios over windows of a second."""

    def __init__(self, event: Event, now: float) -> None:
        self._event = event
        self._since = now
        self._before: Sequence[int] = [0] * len(VERDICTS)

    def happened(self, verdicts: Sequence[int], now: float) -> bool:
        """Return whether the last window was beyond the limit.

        Args:
            verdicts: Packets so far, by verdict.
            now: Seconds of a clock that is never set.
        """
        event = self._event
        passed = now - self._since
        if event.verdict is None or event.verdict_bits or passed < WINDOW:
            return False
        found = [count - old for count, old in zip(verdicts, self._before, strict=True)]
        self._since, self._before = now, list(verdicts)
        if event.rate is not None:
            return found[event.verdict] / passed > event.rate
        return event.ratio is not None and found[event.verdict] > event.ratio * sum(found)
