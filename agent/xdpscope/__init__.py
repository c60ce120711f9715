# SPDX-License-Identifier: Apache-2.0
"""Shows what every XDP program on a Linux host does with its packets."""

__version__ = "0.2.0"
