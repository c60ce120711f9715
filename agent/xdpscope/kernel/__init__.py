# SPDX-License-Identifier: Apache-2.0
"""What this kernel is, can do and holds, apart from BPF objects."""
