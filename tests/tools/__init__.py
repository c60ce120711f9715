# SPDX-License-Identifier: Apache-2.0
"""What unit tests and kernel tests share."""
