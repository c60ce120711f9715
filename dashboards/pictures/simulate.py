# SPDX-License-Identifier: Apache-2.0
"""Writes the data that the pictures of the dashboards show: six nodes, and an incident.

    python -m dashboards.pictures.simulate build/simulated

Names and labels are the agent's, which a test compares. Recorded series and alerts are what
Prometheus makes of config/prometheus. The data is simulated, because hosts in an emulator have 20
packets a second.
"""

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from dashboards.pictures.fleet import END, SHOWN, START, STEP, fleet
from dashboards.pictures.series import Series, series_of

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = ROOT / "config" / "prometheus"


def text_of(series: Iterable[Series]) -> Iterator[str]:
    """Yield the lines of OpenMetrics, with times."""
    for each in series:
        labels = ",".join(f'{name}="{value}"' for name, value in each.labels.items())
        for at, value in each.values:
            yield f"{each.name}{{{labels}}} {value} {at}\n"
    yield "# EOF\n"


def blocks(series: Iterable[Series], directory: Path) -> None:
    """Add series to a database of Prometheus."""
    with tempfile.NamedTemporaryFile("w", suffix=".om") as file:
        file.writelines(text_of(series))
        file.flush()
        run = ["promtool", "tsdb", "create-blocks-from", "openmetrics", file.name, str(directory)]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def prometheus(directory: Path, port: int = 19090) -> Iterator[str]:
    """Run a Prometheus that reads the database. Series that ended are gone after 45 s."""
    config = directory / "prometheus.yml"
    config.write_text("global: {}\n")
    server = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory}",
            "--storage.tsdb.retention.time=100y",
            "--query.lookback-delta=45s",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{address}/-/ready", timeout=5):
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def ask(address: str, query: str) -> list[dict[str, Any]]:
    """Return the series of a query over the whole time."""
    parameters = {"query": query, "start": START, "end": END, "step": STEP}
    url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=300) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def rules() -> list[dict[str, Any]]:
    """Return recording rules and alerts of config/prometheus."""
    return [
        rule
        for file in ("recording.yml", "alerts.yml")
        for group in yaml.safe_load((RULES / file).read_text())["groups"]
        for rule in group["rules"]
    ]


def record(directory: Path) -> None:
    """Add what the recording rules make of the data, those first that others need."""
    left = [rule for rule in rules() if "record" in rule]
    while left:
        names = {rule["record"] for rule in left}
        ready = [
            rule
            for rule in left
            if not names & set(re.findall(r"[a-z_0-9]+(?::[a-z_0-9]+)+", rule["expr"]))
        ]
        with prometheus(directory) as address:
            made = [
                Series(
                    rule["record"],
                    {
                        name: value
                        for name, value in {**found["metric"], **rule.get("labels", {})}.items()
                        if name != "__name__"
                    },
                    [(int(at), float(value)) for at, value in found["values"]],
                )
                for rule in ready
                for found in ask(address, rule["expr"])
            ]
        blocks(made, directory)
        left = [rule for rule in left if rule not in ready]


def seconds(duration: str) -> int:
    """Return a duration such as 5m in seconds."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def alert(directory: Path) -> None:
    """Add the alerts that fire: their expression was true for long enough."""
    made = []
    with prometheus(directory) as address:
        for rule in (rule for rule in rules() if "alert" in rule):
            for found in ask(address, rule["expr"]):
                labels = {**found["metric"], **rule.get("labels", {})}
                labels.pop("__name__", None)
                labels |= {"alertname": rule["alert"], "alertstate": "firing"}
                firing, since, last = [], 0, 0
                for at, _ in found["values"]:
                    since = int(at) if int(at) > last + STEP else since
                    last = int(at)
                    if last - since >= seconds(rule["for"]):
                        firing.append((last, 1.0))
                if firing:
                    print(f"{rule['alert']} fires on {labels['instance']}, {len(firing)} scrapes")
                    made.append(Series("ALERTS", labels, firing))
    blocks(made, directory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="for the database; it is replaced")
    directory = parser.parse_args().directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    blocks((series for node in fleet() for series in series_of(node)), directory)
    record(directory)
    alert(directory)
    print(f"shown: --from {SHOWN} --to {END} --scrape {STEP}")


if __name__ == "__main__":
    main()
