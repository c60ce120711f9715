# SPDX-License-Identifier: Apache-2.0
"""What observing costs: a packet, counted in instructions, and the agent, in ``scale``."""
