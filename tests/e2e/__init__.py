# SPDX-License-Identifier: Apache-2.0
"""What is shipped, as it is shipped: the image, run as the DaemonSet runs it."""
