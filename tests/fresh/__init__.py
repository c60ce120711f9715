# SPDX-License-Identifier: Apache-2.0
"""The commands of the README, on bare systems with nothing preinstalled."""
