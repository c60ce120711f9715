# SPDX-License-Identifier: Apache-2.0
"""Run a command on a real kernel, in a virtual machine that needs neither KVM nor a disk image."""
