# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes manifests, as kustomize builds them, against the schemas of Kubernetes itself."""

import copy
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from tests.kustomize import build

from xdpscope import __version__, config

KUBERNETES = Path(__file__).parents[2] / "config" / "kubernetes"
GRAFANA = KUBERNETES.parents[1] / "dashboards" / "grafana"
_LOCATIONS = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool", path=_LOCATIONS)
OPERATOR = KUBERNETES / "components" / "prometheus-operator"
EXAMPLE = KUBERNETES / "overlays" / "example" / "kustomization.yaml"
# What daemonset.yaml says of AppArmor is from 1.30 on.
NEWEST = int(kubernetes_validate.latest_version().split(".")[1])
VERSIONS = [f"1.{minor}" for minor in range(30, NEWEST + 1)]

Manifest = dict[str, Any]


def exactly(required: Manifest, optional: Manifest | None = None) -> Manifest:
    """Return the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 1}
TEXTS = {"type": "array", "items": TEXT}
BY_NAME = {"type": "object", "additionalProperties": TEXT}
SECONDS = {"type": "string", "pattern": "^[0-9]+[sm]$"}
RELABELING = exactly(
    {},
    {
        "sourceLabels": TEXTS,
        "targetLabel": TEXT,
        "replacement": TEXT,
        "action": TEXT,
        "regex": TEXT,
    },
)
IN_SECRET = exactly({"name": TEXT, "key": TEXT})
ENDPOINT = exactly(
    {"port": TEXT, "path": TEXT, "interval": SECONDS, "scrapeTimeout": SECONDS},
    {
        "relabelings": {"type": "array", "items": RELABELING},
        "scheme": {"enum": ["http", "https"]},
        "tlsConfig": exactly({"serverName": TEXT, "ca": exactly({"secret": IN_SECRET})}),
        "basicAuth": exactly({"username": IN_SECRET, "password": IN_SECRET}),
    },
)
LIMITS = ("sampleLimit", "labelLimit", "labelNameLengthLimit", "labelValueLengthLimit")
RULE = exactly(
    {"expr": {"type": ["string", "integer"]}},
    {
        "record": TEXT,
        "alert": TEXT,
        "for": SECONDS,
        "keep_firing_for": SECONDS,
        "labels": BY_NAME,
        "annotations": BY_NAME,
    },
)
GROUP = exactly(
    {"name": TEXT, "rules": {"type": "array", "items": RULE, "minItems": 1}},
    {"interval": SECONDS, "limit": NUMBER},
)
# Kinds that are none of Kubernetes' own: the fields that are used here, and no others.
OTHER_KINDS = {
    "PodMonitor": exactly(
        {
            "selector": exactly({"matchLabels": BY_NAME}),
            "podMetricsEndpoints": {"type": "array", "items": ENDPOINT},
            **dict.fromkeys(LIMITS, NUMBER),
        },
        {"jobLabel": TEXT},
    ),
    "PrometheusRule": exactly({"groups": {"type": "array", "items": GROUP}}),
}


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Return the manifests of base and overlays, and of an overlay with each component, by name."""
    built = {
        str(path.relative_to(KUBERNETES)): build(path)
        for path in (KUBERNETES / "base", *sorted((KUBERNETES / "overlays").iterdir()))
    }
    names = [path.name for path in sorted((KUBERNETES / "components").iterdir())]
    chosen = {f"components/{name}": [name] for name in names}
    # In the order of overlays/example.
    ordered = re.findall(r"- \.\./\.\./components/(\S+)$", EXAMPLE.read_text(), re.MULTILINE)
    assert sorted(ordered) == names
    chosen["all components"] = ordered
    for title, components in chosen.items():
        overlay = tmp_path_factory.mktemp("overlay").resolve()
        kustomization = {
            "resources": [os.path.relpath(KUBERNETES / "base", overlay)],
            "components": [
                os.path.relpath(KUBERNETES / "components" / each, overlay) for each in components
            ],
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        built[title] = build(overlay)
    return built


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """Return the only object of this kind whose name begins like this."""
    (found,) = [
        each
        for each in manifests
        if each["kind"] == kind and each["metadata"]["name"].startswith(name)
    ]
    return found


def configuration_of(manifests: list[Manifest]) -> Manifest:
    """Return the ConfigMap that is mounted where the agent reads its configuration."""
    (name,) = [
        volume["configMap"]["name"]
        for volume in pod_of(manifests)["volumes"]
        if volume["name"] == "config"
    ]
    return of_kind(manifests, "ConfigMap", name)


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = of_kind(manifests, "DaemonSet")["spec"]["template"]["spec"]
    return pod


def check(manifest: Manifest, version: str) -> None:
    """Raise unless this version of Kubernetes knows every field and accepts every value."""
    if manifest["kind"] in OTHER_KINDS:
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        Draft202012Validator(OTHER_KINDS[manifest["kind"]]).validate(manifest["spec"])
    else:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_knows_every_field(
    everything: dict[str, list[Manifest]], version: str
) -> None:
    for manifests in everything.values():
        for manifest in manifests:
            check(manifest, version)


def test_a_field_that_is_none_would_be_found(everything: dict[str, list[Manifest]]) -> None:
    for manifest in everything["components/prometheus-operator"]:
        wrong = copy.deepcopy(manifest)
        inside = wrong.get("spec", wrong)
        inside["hostNetwrok"] = True
        with pytest.raises(Exception, match="hostNetwrok"):
            check(wrong, VERSIONS[-1])


def containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def test_no_container_has_more_than_the_agent(everything: dict[str, list[Manifest]]) -> None:
    (agent,) = pod_of(everything["base"])["containers"]
    for manifests in everything.values():
        pod = pod_of(manifests)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(pod):
            context = container["securityContext"]
            capabilities = context["capabilities"]
            assert capabilities["drop"] == ["ALL"]
            extra = {*capabilities.get("add", [])} - {
                *agent["securityContext"]["capabilities"]["add"]
            }
            assert extra <= {"SYS_RESOURCE"}
            assert not context["privileged"] and not context["allowPrivilegeEscalation"]
            assert context["readOnlyRootFilesystem"]


def test_what_is_said_twice_is_the_same(everything: dict[str, list[Manifest]]) -> None:
    """In daemonset.yaml and in the configuration, the agent, or the PodMonitor."""
    manifests = everything["components/prometheus-operator"]
    pod = pod_of(manifests)
    (agent,) = pod["containers"]
    assert agent["image"] == f"xdpscope:{__version__}"

    (port,) = agent["ports"]
    assert f"--listen=$(NODE_ADDRESS):{port['containerPort']}" in agent["args"]
    for probe, path in (("startup", "healthz"), ("liveness", "healthz"), ("readiness", "readyz")):
        # At the pod's address, which is the node's; `host` would mean another.
        assert agent[f"{probe}Probe"]["httpGet"] == {"path": f"/{path}", "port": port["name"]}
    monitor = of_kind(manifests, "PodMonitor")["spec"]
    assert [each["port"] for each in monitor["podMetricsEndpoints"]] == [port["name"]]
    labels = of_kind(manifests, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()

    # A node is known by its name: alerts link to the agent at it, and at its port.
    relabelings = monitor["podMetricsEndpoints"][0]["relabelings"]
    names = {
        each["targetLabel"]: each["sourceLabels"] for each in relabelings if "targetLabel" in each
    }
    assert names["instance"] == ["__meta_kubernetes_pod_node_name"]
    (rules,) = [each for each in manifests if each["metadata"]["name"] == "xdpscope-alerts"]
    for group in rules["spec"]["groups"]:
        for rule in group["rules"]:
            link = rule.get("annotations", {}).get("runbook_url", "")
            assert not link or f":{port['containerPort']}/?runbook" in link

    # The generated ConfigMap is the mounted one, at the path that the agent reads.
    configuration = of_kind(manifests, "ConfigMap")
    (volume,) = [each for each in pod["volumes"] if "configMap" in each]
    assert volume["configMap"]["name"] == configuration["metadata"]["name"]
    (mount,) = [each for each in agent["volumeMounts"] if each["name"] == volume["name"]]
    (file,) = configuration["data"]
    assert f"--config={mount['mountPath']}/{file}" in agent["args"]


def test_configurations_are_good(everything: dict[str, list[Manifest]]) -> None:
    for name, manifests in everything.items():
        (text,) = configuration_of(manifests)["data"].values()
        path = config.parse(text, name).state.pin_path
        assert path is not None
        (agent, *_) = containers(pod_of(manifests))
        assert any(path.is_relative_to(each["mountPath"]) for each in agent["volumeMounts"])


def test_components(everything: dict[str, list[Manifest]]) -> None:
    def agent(name: str) -> Manifest:
        (found, *_) = containers(pod_of(everything[f"components/{name}"]))
        return found

    (base,) = pod_of(everything["base"])["containers"]
    assert "--listen=[$(NODE_ADDRESS)]:10091" in agent("ipv6")["args"]
    rights = base["securityContext"]["capabilities"]["add"]
    old = agent("linux-5.10")["securityContext"]["capabilities"]["add"]
    assert old == [*rights, "SYS_RESOURCE"]
    # Who removes may do what the agent may; what then waits, nothing.
    assert agent("remove")["args"][:2] == ["doctor", "--clean"]
    assert agent("remove")["securityContext"] == base["securityContext"]
    assert agent("remove")["volumeMounts"] == base["volumeMounts"]
    (waiting,) = pod_of(everything["components/remove"])["containers"]
    assert "add" not in waiting["securityContext"]["capabilities"]
    # An overlay's image and configuration are those of its pods.
    example = everything["overlays/example"]
    (own,) = pod_of(example)["containers"]
    assert re.fullmatch(r"registry\.example/network/xdpscope@sha256:[0-9a-f]{64}", own["image"])
    assert config.parse(configuration_of(example)["data"]["xdpscope.yaml"], "").flows.top == 100
    for kind in ("PodMonitor", "PrometheusRule"):
        for manifest in example:
            if manifest["kind"] == kind:
                assert manifest["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_dashboards_are_found_by_grafana(everything: dict[str, list[Manifest]]) -> None:
    files = {path.name: path.read_text() for path in (GRAFANA / "dashboards").iterdir()}
    for manifests in (everything["components/grafana"], everything["overlays/example"]):
        found: dict[str, str] = {}
        for manifest in manifests:
            if manifest["metadata"].get("labels", {}).get("grafana_dashboard"):
                assert manifest["kind"] == "ConfigMap"
                assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
                assert manifest["metadata"]["namespace"] == "xdpscope"
                # kubectl apply keeps what it applied in an annotation of at most 256 KiB.
                assert len(json.dumps(manifest)) < 200 * 1024
                found |= manifest["data"]
        assert found == files


def test_all_is_in_one_namespace(everything: dict[str, list[Manifest]]) -> None:
    """A PodMonitor selects pods of its own namespace, and a pod finds its ConfigMap only there."""
    for name, manifests in everything.items():
        namespace = of_kind(manifests, "Namespace")["metadata"]["name"]
        for manifest in manifests:
            if manifest["kind"] != "Namespace":
                assert manifest["metadata"].get("namespace") == namespace, (name, manifest)


def test_the_image_is_set_in_one_place(everything: dict[str, list[Manifest]]) -> None:
    image = yaml.safe_load(EXAMPLE.read_text())["images"][0]
    for container in containers(pod_of(everything["overlays/example"])):
        assert container["image"] == f"{image['newName']}@{image['digest']}"
    names = {each["image"] for each in containers(pod_of(everything["components/remove"]))}
    assert names == {f"xdpscope:{__version__}"}


def test_tls_and_a_password(everything: dict[str, list[Manifest]]) -> None:
    manifests = everything["all components"]
    pod = pod_of(everything["components/tls"])
    (agent,) = pod["containers"]
    mounts = {each["name"]: each["mountPath"] for each in agent["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    secret = volumes["web"]["secret"]["secretName"]
    settings = config.parse(configuration_of(manifests)["data"]["xdpscope.yaml"], "")
    assert settings.web_config is not None
    assert settings.web_config == Path(mounts["web"]) / "web-config.yml"

    scripts = of_kind(everything["components/tls"], "ConfigMap", "xdpscope-probe")
    assert volumes["probe"]["configMap"]["name"] == scripts["metadata"]["name"]
    for probe, path in (("startup", "healthz"), ("liveness", "healthz"), ("readiness", "readyz")):
        command = agent[f"{probe}Probe"]["exec"]["command"]
        assert command == ["python3", f"{mounts['probe']}/probe.py", f"/{path}"]
        assert "httpGet" not in agent[f"{probe}Probe"]
    assert set(scripts["data"]) == {"probe.py"}

    (endpoint,) = of_kind(manifests, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    used = [endpoint["tlsConfig"]["ca"]["secret"], *endpoint["basicAuth"].values()]
    assert {each["name"] for each in used} == {secret}
    # The documented command makes a Secret that has all of that.
    page = (KUBERNETES.parents[1] / "docs" / "kubernetes.md").read_text()
    command = page.partition(f"create secret generic {secret}")[2].partition("\n\n")[0]
    made = set(re.findall(r"--from-(?:file|literal)=([\w.-]+)", command))
    assert {each["key"] for each in used} | {"web-config.yml", "tls.crt", "tls.key"} == made


def test_links_and_thresholds_are_set_once(everything: dict[str, list[Manifest]]) -> None:
    """By an overlay that knows where the documentation and Grafana are."""
    (spec,) = [
        each["spec"]
        for each in everything["overlays/example"]
        if each["metadata"]["name"] == "xdpscope-alerts"
    ]
    (endpoint,) = of_kind(everything["overlays/example"], "PodMonitor")["spec"][
        "podMetricsEndpoints"
    ]
    assert {"targetLabel": "cluster", "replacement": "berlin"} in endpoint["relabelings"]
    thresholds, *groups = spec["groups"]
    assert thresholds["rules"][0]["expr"] == "vector(0.25)"
    alerts = [rule for group in groups for rule in group["rules"]]
    assert len(alerts) > 10
    for rule in alerts:
        notes = rule["annotations"]
        anchor = rule["alert"].lower()
        assert notes["runbook_url"] == f"https://docs.example.net/xdpscope/runbook/#{anchor}"
        assert notes["dashboard_url"].startswith("https://grafana.example.net/d/xdpscope-")


def test_rules_are_those_of_prometheus(everything: dict[str, list[Manifest]]) -> None:
    sources = [*(KUBERNETES.parent / "prometheus").glob("*.yml")]
    script = runpy.run_path(str(OPERATOR / "generate.py"))
    expected = [
        found
        for path in sources
        if "groups" in (found := yaml.safe_load(path.read_text().replace(*script["LINKS"])))
    ]
    assert expected
    assert script["OUTPUT"].read_text() == script["generated"](), "run generate.py"
    manifests = everything["components/prometheus-operator"]
    found = [each["spec"] for each in manifests if each["kind"] == "PrometheusRule"]
    assert sorted(found, key=str) == sorted(expected, key=str)
    assert PROMTOOL is not None, "promtool is missing: make setup fetches it"
    for spec in found:
        subprocess.run(
            [PROMTOOL, "check", "rules", "/dev/stdin"],
            input=yaml.safe_dump(spec),
            text=True,
            check=True,
        )
