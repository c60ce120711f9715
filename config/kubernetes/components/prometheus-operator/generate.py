# SPDX-License-Identifier: Apache-2.0
"""Writes the rules of config/prometheus as the Prometheus Operator takes them.

    python config/kubernetes/components/prometheus-operator/generate.py

Their text is kept as it is, comments included, but for the port in links to agents: the PodMonitor
makes `instance` the node's name. A test fails if the two differ.
"""

from pathlib import Path
from textwrap import indent

HERE = Path(__file__).parent
OUTPUT = HERE / "prometheus-rules.yaml"
RULES = HERE.parents[2] / "prometheus"

LINKS = ("instance }}/?runbook", "instance }}:10091/?runbook")
SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
_RESOURCE = """---
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: xdpscope-{name}
spec:
{spec}"""


def generated() -> str:
    """Return a PrometheusRule for each file that has groups of rules."""
    texts = {path.stem: path.read_text().replace(*LINKS) for path in sorted(RULES.glob("*.yml"))}
    return f"{SPDX}# Written by generate.py from config/prometheus: do not edit.\n" + "".join(
        _RESOURCE.format(name=name, spec=indent(text.removeprefix(SPDX), "  "))
        for name, text in texts.items()
        if "\ngroups:" in text
    )


if __name__ == "__main__":
    OUTPUT.write_text(generated())
