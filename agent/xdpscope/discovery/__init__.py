# SPDX-License-Identifier: Apache-2.0
"""Find the XDP programs of the host, their roles and their attachments."""
