# SPDX-License-Identifier: Apache-2.0
"""Objects of the kernel as iterator programs of ours list them (Linux 5.8)."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from xdpscope import bpf
from xdpscope.libbpf import Link, Object


class Listing:
    """A loaded iterator: one read takes one system call, or few, however much there is."""

    def __init__(self, name: str, record: str) -> None:
        """Load it.

        Args:
            name: Of the object, and of the program in it.
            record: The structure that it writes for each thing it lists.

        Raises:
            KernelError: this kernel refuses it.
        """
        with Object(bpf.path_of(name)) as loaded:
            loaded.keep_log(name)
            loaded.load()
            self._record = loaded.btf.struct(record)
            with loaded.program(name) as program:
                self._link = Link.iterate(program)
        self._raw = b""
        self._records = np.frombuffer(self._raw, self._record)

    def close(self) -> None:
        """Unload it."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self) -> NDArray[Any]:
        """Return the records of this moment; the same array as the last time, if they are the
        same.
        """
        raw = self._link.read_all()
        if raw != self._raw:
            self._raw, self._records = raw, np.frombuffer(raw, self._record)
        return self._records
