# SPDX-License-Identifier: Apache-2.0
"""Many network devices at once, for packets of test runs to come from."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_GROUP = 88
# Below the smallest MTU of IPv6: the kernel then makes no IPv6 settings for each device.
_MTU = 1000


@contextmanager
def dummies(indices: Sequence[int]) -> Iterator[dict[str, int]]:
    """Yield new devices with these ifindexes, by name, in the current network namespace.

    All of them are deleted at the end, together: one by one takes much longer.
    """
    names = {f"xsd{index}": index for index in indices}
    commands = [
        f"link add name {name} index {index} mtu {_MTU} group {_GROUP} type dummy"
        for name, index in names.items()
    ]
    try:
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)
        yield names
    finally:
        subprocess.run(["ip", "link", "del", "group", str(_GROUP)], check=True)
