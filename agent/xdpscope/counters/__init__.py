# SPDX-License-Identifier: Apache-2.0
"""Compute totals and flows from the kernel's records. Pure: no system calls."""
