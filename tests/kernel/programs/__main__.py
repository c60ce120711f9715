# SPDX-License-Identifier: Apache-2.0
"""Compiles every program, and makes the frames that take long to make."""

from tests.kernel.mixture import samples
from tests.kernel.odd_frames import examples
from tests.kernel.programs import compile_all

compile_all()
samples()
for number in (2, 25):  # of test_flow_properties.py
    examples(number)
