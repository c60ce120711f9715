# SPDX-License-Identifier: Apache-2.0
"""Which XDP programs there are, what role each plays, where each is attached."""
