# SPDX-License-Identifier: Apache-2.0
"""Tracers: one for each target, sharing the instructions of one template."""
