# SPDX-License-Identifier: Apache-2.0
"""Compiles every program."""

from tests.kernel.programs import compile_all

compile_all()
