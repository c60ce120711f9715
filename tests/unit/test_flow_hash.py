# SPDX-License-Identifier: Apache-2.0
"""Flows that resemble each other fill the table as well as random ones, for any secret.

The product's own hash is compiled for this machine. What a kernel makes of it is measured by
``tests/kernel/test_flow_families.py``.
"""

import ctypes
import random
import subprocess
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).parent
BITS = 12
SETS, FLOWS = 1 << BITS, 4 << BITS
SECRETS = 40

Keys = NDArray[np.uint8]
"""Of shape (flows, bytes of a key)."""

# Where in struct flow4_key and struct flow6_key: the last bytes of what differs most.
DESTINATION4, SPORT4, DPORT4, SOURCE4 = 3, 5, 7, 15
SUBNET6, SOURCE6, DESTINATION6, SPORT6, DPORT6 = 7, 15, 31, 33, 35
SIZE = {4: 16, 6: 40}


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Keys, int, int], int]]:
    library = tmp_path_factory.mktemp("flow_hash") / "flow_hash.so"
    command = ["clang", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(HERE / "flow_hash.c")], check=True)
    function = ctypes.CDLL(str(library)).held
    function.restype = ctypes.c_long

    def call(keys: Keys, one: int, other: int) -> int:
        keys = np.ascontiguousarray(keys)
        arguments = ctypes.c_long(len(keys)), keys.shape[1] // 8, BITS
        factors = ctypes.c_uint64(one), ctypes.c_uint64(other)
        return int(function(keys.ctypes.data_as(ctypes.c_void_p), *arguments, *factors))

    yield call


def alike(version: int, dice: random.Random) -> Keys:
    """So many times the same key: of UDP, passed, on the first device."""
    key = bytearray(dice.randbytes(SIZE[version]))
    at = 8 if version == 4 else 36
    key[at : at + 4] = 2, 17, 0, 0
    return np.tile(np.frombuffer(bytes(key), np.uint8), (FLOWS, 1))


def counting(keys: Keys, low: int, high: int, bits: int) -> Keys:
    """Number the keys: low bits in the byte ``low``, the others in the two that end at ``high``."""
    numbers = np.arange(FLOWS)
    keys[:, low] = numbers & ((1 << bits) - 1)
    keys[:, high] = numbers >> bits
    if FLOWS >> bits > 256:
        keys[:, high - 1] = numbers >> bits >> 8
    return keys


def progression(keys: Keys, word: int, step: int) -> Keys:
    words = keys.view(np.uint64)
    words[:, word] += np.arange(FLOWS, dtype=np.uint64) * np.uint64(step)
    return keys


FAMILIES = [
    *product([4], [(SOURCE4, DPORT4, 7), (SOURCE4, SPORT4, 7)]),  # half a /24, and ports
    *product([4], [(SOURCE4, DPORT4, 4), (SOURCE4, SPORT4, 4)]),  # 16 hosts, and more ports
    *product([4], [(DESTINATION4, DPORT4, 7), (DESTINATION4, SOURCE4, 7), (SPORT4, DPORT4, 7)]),
    *product([4], [(12, DPORT4, 7), (0, 1, 7), (DPORT4, SOURCE4, 0), (DPORT4, DPORT4, 0)]),
    *product([6], [(SOURCE6, DPORT6, 7), (SOURCE6, SPORT6, 4), (SOURCE6, SOURCE6, 0)]),
    *product([6], [(SUBNET6, DESTINATION6, 7), (SUBNET6, SOURCE6, 7), (SUBNET6, 23, 7)]),
    *product([6], [(SOURCE6, DESTINATION6, 7), (23, DESTINATION6, 7), (8, SOURCE6, 7)]),
    *product([6], [(0, 8, 7), (0, 16, 7), (16, 24, 7), (SPORT6, DPORT6, 7)]),
]


@pytest.mark.parametrize(("version", "family"), FAMILIES)
def test_families(
    held: Callable[[Keys, int, int], int], version: int, family: tuple[int, int, int]
) -> None:
    dice = random.Random(15)
    for _ in range(SECRETS):
        one, other = (dice.getrandbits(64) | 1 for _ in range(2))
        found = held(counting(alike(version, dice), *family), one, other)
        assert found > 0.95 * expected(held, version), (one, other)


@pytest.mark.parametrize(("version", "word"), [(4, 0), (4, 1), (6, 1), (6, 3), (6, 4)])
def test_arithmetic_progressions(
    held: Callable[[Keys, int, int], int], version: int, word: int
) -> None:
    dice = random.Random(16)
    for number in range(SECRETS):
        one, other = (dice.getrandbits(64) | 1 for _ in range(2))
        step = 1 << dice.randrange(49) if number % 2 else dice.getrandbits(64) | 1
        found = held(progression(alike(version, dice), word, step), one, other)
        assert found > 0.95 * expected(held, version), (one, other, step)


def expected(held: Callable[[Keys, int, int], int], version: int) -> int:
    """Return how many of as many random keys find a place."""
    dice = random.Random(17)
    keys = np.frombuffer(dice.randbytes(FLOWS * SIZE[version]), np.uint8).reshape(FLOWS, -1)
    found = held(keys, dice.getrandbits(64) | 1, dice.getrandbits(64) | 1)
    assert 0.88 * FLOWS < found < 0.9 * FLOWS
    return found
