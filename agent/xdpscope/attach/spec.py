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
    SAMPLED_OUT = auto()
    """Count each packet as one that is not taken for flows. FLOWS and TIMES take precedence."""

    # Each value is one object. Each scan looks up what each target needs, and Enum's own is slow.
    __hash__ = object.__hash__

    @property
    def kind(self) -> "Spec":
        """Return the one of ``KINDS`` that does all of this."""
        if Spec.TIMES in self:
            return Spec.TIMES
        return Spec.SAMPLED_OUT if self & _FOR_FLOWS == Spec.SAMPLED_OUT else Spec.FLOWS


NOTHING = Spec(0)
_FOR_FLOWS = Spec.FLOWS | Spec.SAMPLED_OUT

KINDS = (Spec.FLOWS, Spec.TIMES, Spec.SAMPLED_OUT)
"""The programs of one kind replace those of another in a handover. The order is that of
``enum way`` in ``bpf/common/xdpscope.h``."""
