# SPDX-License-Identifier: Apache-2.0
"""The main job, live: an XDP program at work, the agent, and Prometheus reading it."""
