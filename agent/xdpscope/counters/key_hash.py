# SPDX-License-Identifier: Apache-2.0
"""64 bits that stand for a flow's key: no two flows may get the same, whoever chooses them."""

import secrets

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


class KeyHash:
    """A secret function from so many words of 64 bits to one.

    One multiplication carries a difference upwards only: of words that differ in their top bits,
    anybody can say how the products differ, whatever the factor, and let the next word make up for
    it. So the bytes are swapped, and what was the top is multiplied once more. Then at most one
    pair of keys in 2**56, however chosen, has the same hash.
    """

    def __init__(self, words: int) -> None:
        self._factors = [[np.uint64(secrets.randbits(64) | 1) for _ in "12"] for _ in range(words)]

    def __call__(self, words: list[U64]) -> U64:
        """The hash of each key; ``words`` are the columns."""
        found = np.zeros_like(words[0])
        for word, (first, second) in zip(words, self._factors, strict=True):
            found = ((found ^ word) * first).byteswap() * second
        return found
