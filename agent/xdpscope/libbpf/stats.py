# SPDX-License-Identifier: Apache-2.0
"""The kernel's run-time statistics of programs."""

from xdpscope.libbpf._raw import lib
from xdpscope.libbpf.descriptor import Descriptor, fail


def run_time_stats() -> Descriptor:
    """Have the kernel count runs and run time of every program until this is closed.

    By descriptor rather than by sysctl, so that a process that is killed leaves them off.
    """
    fd = lib.bpf_enable_stats(lib.BPF_STATS_RUN_TIME)
    if fd < 0:
        fail(fd, "enabling BPF statistics")
    return Descriptor(fd)
