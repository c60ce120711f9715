# SPDX-License-Identifier: Apache-2.0
"""Say what the tracing programs of a target do, so that all probes share one pair of programs."""

from enum import Flag, auto


class Spec(Flag):
    """List what the tracing programs of one target can do. ``|`` combines the needs of probes.

    ``Variant.way`` returns the programs that do it: one at the exit, and one at the entry if
    needed. There is never a second pair for a second probe.
    """

    VERDICTS = auto()
    """Count each packet with its verdict. All tracing programs do."""
    FLOWS = auto()
    """Count packets by flow. This needs the object ``flows``."""
    TIMES = auto()
    """Measure the time from entry to exit. With the object ``flows``, FLOWS is included."""


NOTHING = Spec(0)
