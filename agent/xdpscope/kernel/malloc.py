# SPDX-License-Identifier: Apache-2.0
"""glibc's allocator, which holds on to memory that this process has freed."""

import ctypes
from typing import Final

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

# A page of 5,000 series is 1 MB of text. Smaller blocks are not worth a system call each.
_LARGE: Final = 1 << 20


def return_freed_memory() -> None:
    """Let the allocator return large blocks to the kernel as soon as they are free.

    Left to itself it raises the threshold for mmap to the largest block that was ever freed, up to
    32 MiB, and that for trimming to twice as much (mallopt(3)). So it keeps most of what one large
    page took. Other allocators have no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
