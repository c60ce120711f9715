# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboards: ``python -m dashboards`` writes the JSON that is checked in beside this.

The classic JSON model, not the newer resources: every Grafana in use can import or provision it.
"""
