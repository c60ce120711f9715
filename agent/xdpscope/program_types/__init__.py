# SPDX-License-Identifier: Apache-2.0
"""What differs between kinds of programs that process packets. Today there is XDP only."""
