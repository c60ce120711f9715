# SPDX-License-Identifier: Apache-2.0
"""Frames that nobody would send, made by Hypothesis.

An emulated machine takes ten seconds to import Hypothesis, so ``python -m tests.kernel.programs``
makes the frames beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.kernel.programs import OUTPUT

Example = tuple[list[bytes], int]
"""Whole frames, and a seed."""


def examples(number: int) -> list[Example]:
    """Return so many, the same each time; made again if ``odd_packets.py`` has changed."""
    path = OUTPUT / f"odd_frames-{number}.json"
    source = Path(__file__).with_name("odd_packets.py")
    if not path.exists() or path.stat().st_mtime < source.stat().st_mtime:
        from tests.kernel.odd_packets import make

        made = [([frame.hex() for frame in frames], seed) for frames, seed in make(number)]
        OUTPUT.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(made))
        partial.replace(path)
    found = json.loads(path.read_text())
    return [([bytes.fromhex(frame) for frame in frames], seed) for frames, seed in found]
