# SPDX-License-Identifier: Apache-2.0
"""The rules of config/prometheus for a clock that runs faster, so that tests need not wait hours.

One number divides every duration: ``for``, ranges, offsets and the steps of subqueries. With 30,
five minutes are ten seconds. Everything else stays as it is. Thresholds are shares, rates a second,
and counts of what must not happen at all. All groups are evaluated at the interval of the
configuration.
"""

import re
from typing import Final

import yaml

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_IN_EXPRESSION: Final = re.compile(r"(?<=\[)[0-9smhd:]+(?=\])|(?<=offset )[0-9]+[smhd]\b")


def faster(rules: str, factor: int) -> str:
    """Return a file of rules with all durations divided by ``factor``."""
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = divided(rule["for"], factor)
            rule["expr"] = _IN_EXPRESSION.sub(
                lambda found: ":".join(divided(each, factor) for each in found[0].split(":")),
                rule["expr"],
            )
    return yaml.safe_dump(document, width=1000)


def divided(duration: str, factor: int) -> str:
    """Return a duration such as ``5m``, divided."""
    milliseconds = int(duration[:-1]) * _SECONDS[duration[-1]] * 1000 // factor
    return f"{milliseconds}ms" if milliseconds else "0s"
