# SPDX-License-Identifier: Apache-2.0
"""XDP programs: the only list of their verdicts."""

from typing import Final

VERDICTS: Final = ("aborted", "drop", "pass", "tx", "redirect", "unknown")
"""In the order of the kernel's ``enum xdp_action`` (include/uapi/linux/bpf.h), and of
``enum verdict`` in bpf/common/xdpscope.h. ``unknown`` stands for all other return values."""

VERDICTS_SHOWN: Final = ("pass", "drop", "tx", "redirect", "aborted", "unknown")
"""In the order in which people read them."""
