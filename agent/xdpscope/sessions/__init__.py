# SPDX-License-Identifier: Apache-2.0
"""What runs on demand and ends with its command: trace and capture."""
