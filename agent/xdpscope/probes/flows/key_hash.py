# SPDX-License-Identifier: Apache-2.0
"""Hash a flow's key to 64 bits, so that nobody can choose two flows with equal hashes."""

import secrets

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


class KeyHash:
    """Compute one word of 64 bits from several such words, with secret factors.

    One multiplication carries a difference upwards only. If two words differ in their top bits,
    anybody can predict how the products differ, for any factor. The next word could then cancel
    this difference. So the function swaps the bytes and multiplies the former top bits again.
    Then at most one pair of keys in 2**56 has the same hash, even if somebody chooses the keys.
    """

    def __init__(self, words: int) -> None:
        self._factors = [[np.uint64(secrets.randbits(64) | 1) for _ in "12"] for _ in range(words)]

    def __call__(self, words: list[U64]) -> U64:
        """Return the hash of each key; ``words`` are the columns of the keys."""
        found = np.zeros_like(words[0])
        for word, (first, second) in zip(words, self._factors, strict=True):
            found = ((found ^ word) * first).byteswap() * second
        return found
