# SPDX-License-Identifier: Apache-2.0
"""The Grafana dashboards. ``python -m dashboards`` writes their JSON, which is checked in here.

They use the classic JSON model, because every Grafana in use can import or provision it. Not every
Grafana can do that with the newer resources.
"""
