# SPDX-License-Identifier: Apache-2.0
"""No two flows have the same name, however alike they are."""

import random
from itertools import combinations

import numpy as np
import pytest

from xdpscope.probes.flows.key_hash import KeyHash

WORDS = 5
SECRETS = 20


def test_keys_that_differ_in_two_bytes() -> None:
    bytes_of_words = [8 * word + byte for word in range(WORDS) for byte in (0, 3, 4, 7)]
    for one, other in combinations(bytes_of_words, 2):
        key = np.frombuffer(random.Random(one).randbytes(8 * WORDS), np.uint8)
        keys = np.tile(key, (1 << 16, 1))
        keys[:, one] = np.arange(1 << 16) & 0xFF
        keys[:, other] = np.arange(1 << 16) >> 8
        words = keys.view(np.uint64)
        hashes = KeyHash(WORDS)([words[:, number] for number in range(WORDS)])
        assert len(np.unique(hashes)) == 1 << 16, (one, other)


@pytest.mark.parametrize("bit", [0, 7, 31, 32, 55, 62, 63])
def test_a_word_cannot_make_up_for_the_one_before(bit: int) -> None:
    """Not even where it is known which bits of a product differ: the top one alone does."""
    dice = random.Random(bit)
    for _ in range(SECRETS):
        hashed = KeyHash(2)
        first, second = (np.uint64(dice.getrandbits(64)) for _ in range(2))
        # All differences of two bits, and none.
        bits = [0, *(1 << number for number in range(64))]
        differences = np.array([one | two for one in bits for two in bits], np.uint64)
        wanted = hashed([np.array([first]), np.array([second])])
        found = hashed(
            [np.full_like(differences, first ^ np.uint64(1 << bit)), second ^ differences]
        )
        assert wanted not in found
