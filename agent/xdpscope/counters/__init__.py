# SPDX-License-Identifier: Apache-2.0
"""Arithmetic over what was counted; pure, no system calls."""
