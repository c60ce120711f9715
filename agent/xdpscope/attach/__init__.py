# SPDX-License-Identifier: Apache-2.0
"""Trace targets: one tracer for each, all with the instructions of one template."""
