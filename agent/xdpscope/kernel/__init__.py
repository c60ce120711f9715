# SPDX-License-Identifier: Apache-2.0
"""The running kernel's features and objects, apart from BPF objects."""
