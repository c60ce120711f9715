# SPDX-License-Identifier: Apache-2.0
"""Tests that need a kernel that lets BPF programs be traced, and root: run in the VM."""
