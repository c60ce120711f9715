# SPDX-License-Identifier: Apache-2.0
"""What observing 200 programs costs the agent: time to attach, memory, idling, a scrape."""

PROGRAMS = 200
