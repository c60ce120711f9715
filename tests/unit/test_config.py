# SPDX-License-Identifier: Apache-2.0
"""The configuration: what is accepted, and that whatever is not is named, with line and key."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from xdpscope.agent import Agent
from xdpscope.config import (
    Config,
    GlobFilter,
    Latency,
    Listen,
    Programs,
    load,
    needing_restart,
    parse,
    warnings,
)
from xdpscope.errors import ConfigError

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "agent" / "xdpscope"
EXAMPLE = ROOT / "config" / "xdpscope.yaml"


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.yaml")
    return str(caught.value).splitlines()


def settings(section: Any, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of all keys, by their dotted paths."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for each in dataclasses.fields(section):
        path = f"{prefix}{each.name}"
        inner = dataclasses.is_dataclass(each.type)
        found |= settings(each.type, f"{path}.") if inner else {path: each}
    return found


def test_the_example_shows_every_key_at_its_default() -> None:
    assert load(EXAMPLE) == Config()
    keys = [line.split(":")[0] for line in EXAMPLE.read_text().splitlines() if line[:1] != "#"]
    shown, section = set(), ""
    for key in filter(None, keys):
        if not key.startswith(" "):
            section = key
        elif "#" not in key:
            shown.add(f"{section}.{key.strip()}")
        shown.add(section)
    assert settings(Config).keys() <= shown


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null", "flows:\nlog: ~\n", "\ufeff"])
def test_nothing_said_means_the_defaults(text: str) -> None:
    assert parse(text, "x.yaml") == Config() == load(None)


def test_every_key_is_read() -> None:
    config = parse(
        """
        listen: "[::1]:0"
        web_config: web.yml
        programs:
          include: [12, 0123, 3e5, no, "xdp_*"]
          exclude: [xdp_test]
          arm: false
          expected: [xdp_filter, 3b185187f1855c4c]
        interfaces: {exclude: [lo]}
        discovery: {interval: 500ms, netns: host}
        flows: {enabled: false, max_entries: 10, top: 0, sample_rate: 100, idle_timeout: 1.5h}
        latency: {enabled: true, sample_rate: 100}
        outcomes: {enabled: false}
        budget: {cpu_percent: 2.5}
        state: {pin_path: /sys/fs/bpf/xdpscope}
        log: {level: debug, format: "json"}
        """,
        "x.yaml",
    )
    assert config.listen == Listen("::1", 0)
    assert str(config.listen) == "[::1]:0"
    assert config.web_config == Path("web.yml")
    globs = ("12", "0123", "3e5", "no", "xdp_*"), ("xdp_test",)
    assert config.programs == Programs(*globs, False, ("xdp_filter", "3b185187f1855c4c"))
    assert config.interfaces == GlobFilter(("*",), ("lo",))
    assert (config.discovery.interval, config.discovery.netns) == (0.5, "host")
    assert dataclasses.astuple(config.flows) == (False, 10, 0, 100, 5400.0)
    assert config.latency == Latency(enabled=True, sample_rate=100)
    assert not config.outcomes.enabled
    assert config.budget.cpu_percent == 2.5
    assert config.state.pin_path == Path("/sys/fs/bpf/xdpscope")
    assert (config.log.level, config.log.format) == ("debug", "json")


def test_every_key_declares_whether_it_needs_a_restart() -> None:
    for path, each in settings(Config).items():
        assert isinstance(each.metadata.get("restart"), bool), path


def test_keys_that_need_a_restart_are_named() -> None:
    every = """
        listen: :1
        web_config: web.yml
        programs: {include: [a], exclude: [b], arm: false, expected: [c]}
        interfaces: {include: [a], exclude: [b]}
        discovery: {interval: 1s, netns: host}
        flows: {enabled: false, max_entries: 1, top: 1, sample_rate: 2, idle_timeout: 1s}
        latency: {enabled: true, sample_rate: 2}
        budget: {cpu_percent: 5}
        state: {pin_path: /x}
        log: {level: debug, format: json}
        """
    assert list(needing_restart(Config(), parse(every, "x.yaml"))) == [
        "listen",
        "web_config",
        "flows.enabled",
        "flows.max_entries",
        "flows.sample_rate",
        "state.pin_path",
        "log.format",
    ]
    assert list(needing_restart(Config(), Config())) == []


def test_a_reload_logs_what_needs_a_restart(tmp_path: Path, logged: io.StringIO) -> None:
    """Each time that the file differs from what the agent runs with, and not when it agrees."""
    path = tmp_path / "x.yaml"
    agent = Agent(Config(), partial(load, path))

    def reload(text: str) -> list[tuple[str, str]]:
        path.write_text(text)
        agent._reload()
        records = list(map(json.loads, logged.getvalue().splitlines()))
        logged.seek(0)
        logged.truncate()
        return [(record["event"], record.get("key", "")) for record in records]

    needed, done = "takes effect after a restart", ("configuration reloaded", "")
    changed = "flows: {top: 7, sample_rate: 9}\nlog: {format: json}\nstate: {pin_path: /x}"
    expected = [
        (needed, "flows.sample_rate"),
        (needed, "state.pin_path"),
        (needed, "log.format"),
        done,
    ]
    assert reload(changed) == expected
    assert reload(changed) == expected
    assert reload("flows: {top: 8}") == [done]
    assert reload("flows: {tops: 8}\nlogs: {}") == [("configuration not reloaded", "")]


def test_every_key_has_an_effect() -> None:
    """At least, the agent's code uses it somewhere."""
    source = "".join(path.read_text() for path in AGENT.rglob("*.py"))
    used = set(re.findall(r"\.(\w+)", source))
    used |= set(re.findall(r'^    section = "(\w+)"', source, re.MULTILINE))  # of probes
    assert {key for path in settings(Config) for key in path.split(".")} - used == set()


def test_all_problems_are_listed_at_once_with_line_and_key() -> None:
    text = """\
flows:
  max_entires: 5
  top: 6
  top: 7
discovery: {interval: 5, netns: hots}
programs:
  include:
    - ok
    - [a]
Listen: 1.2.3.4:5
"""
    assert problems(text) == [
        "x.yaml:2: flows.max_entires: unknown key, did you mean max_entries? "
        "(allowed: enabled, max_entries, top, sample_rate, idle_timeout)",
        "x.yaml:4: flows.top: is given twice, first on line 3",
        "x.yaml:5: discovery.interval: must be a duration from 100ms to 1h, "
        "such as 500ms, 5s or 1m, not 5",
        "x.yaml:5: discovery.netns: must be one of all, host, not 'hots' (did you mean host?)",
        "x.yaml:9: programs.include[1]: must be a shell glob, a number or a tag, not a list",
        "x.yaml:10: Listen: unknown key, did you mean listen? (allowed: listen, web_config, "
        "programs, interfaces, discovery, flows, latency, outcomes, budget, state, log)",
    ]


def test_all_problems_are_in_the_order_of_the_file() -> None:
    text = """\
log: {format: xml, level: loud, colour: 1}
state: {pin_path: here, pin_path: there}
? {a: b}
: 1
interfaces:
  exclude: [lo, "", [x], {a: b}, ~]
web_config: [a]
flows: [a]
"the key": 1
"": 1
programs: {arm: 1, arm: 2, ARM: 3}
listen: "[::1]"
"""
    assert problems(text) == [
        "x.yaml:1: log.format: must be one of auto, console, json, not 'xml'",
        "x.yaml:1: log.level: must be one of debug, info, warning, error, not 'loud'",
        "x.yaml:1: log.colour: unknown key (allowed: level, format)",
        "x.yaml:2: state.pin_path: must be an absolute path, or null, not 'here'",
        "x.yaml:2: state.pin_path: is given twice, first on line 2",
        "x.yaml:3: '(mapping as key)': unknown key (allowed: listen, web_config, programs, "
        "interfaces, discovery, flows, latency, outcomes, budget, state, log)",
        "x.yaml:6: interfaces.exclude[1]: must be a shell glob, a number or a tag, not '' "
        "(empty, or with unprintable characters)",
        "x.yaml:6: interfaces.exclude[2]: must be a shell glob, a number or a tag, not a list",
        "x.yaml:6: interfaces.exclude[3]: must be a shell glob, a number or a tag, not a mapping",
        "x.yaml:6: interfaces.exclude[4]: must be a shell glob, a number or a tag, not empty",
        "x.yaml:7: web_config: must be a path, or null, not a list",
        "x.yaml:8: flows: must be a mapping with keys among enabled, max_entries, top, "
        "sample_rate, idle_timeout, not a list",
        "x.yaml:9: 'the key': unknown key (allowed: listen, web_config, programs, interfaces, "
        "discovery, flows, latency, outcomes, budget, state, log)",
        "x.yaml:10: '': unknown key (allowed: listen, web_config, programs, interfaces, discovery, "
        "flows, latency, outcomes, budget, state, log)",
        "x.yaml:11: programs.arm: must be true or false, not 1",
        "x.yaml:11: programs.arm: is given twice, first on line 11",
        "x.yaml:11: programs.ARM: unknown key, did you mean arm? "
        "(allowed: include, exclude, arm, expected)",
        "x.yaml:12: listen: must be HOST:PORT, such as 127.0.0.1:10091 or '[::1]:10091', "
        "not '[::1]'",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "must be a mapping"),
        ("xdpscope", "must be a mapping"),
        ("? [a]\n: 1", "unknown key"),
        ("flows: []", "flows: must be a mapping"),
        ("flows: {top: '5'}", "flows.top: must be a whole number"),
        ("flows: {top: 5.5}", "flows.top: must be a whole number"),
        ("flows: {top: -1}", "from 0 to 100000, not -1"),
        ("flows: {top: " + "9" * 9999 + "}", "from 0 to 100000"),
        ("flows: {sample_rate: 0}", "from 1 to"),
        ("flows: {enabled: yes}", "true or false, not 'yes'"),
        ("flows: {enabled: 1}", "true or false, not 1"),
        ("flows: {enabled: }", "true or false, not empty"),
        ("discovery: {interval: 99ms}", "from 100ms"),
        ("discovery: {interval: 5 s}", "a duration"),
        ("discovery: {interval: 61m}", "to 1h"),
        ("discovery: {interval: " + "9" * 500 + "s}", "to 1h"),
        ("discovery: {interval: -5s}", "a duration"),
        ("programs: {include: xdp_a}", "a list of shell globs"),
        ("programs: {include: ['']}", "include[0]"),
        ('programs: {include: ["a\\nb"]}', "unprintable"),
        ("programs: {include: [null]}", "not empty"),
        ("budget: {cpu_percent: 0}", "from 0.1 to 100000, or null, not 0"),
        ("budget: {cpu_percent: 5%}", "a number"),
        ("budget: {cpu_percent: .nan}", "a number"),
        ("budget: {cpu_percent: 1e3}", "a number"),
        ("state: {pin_path: here}", "an absolute path"),
        ('state: {pin_path: "/\\0"}', "an absolute path"),
        ("web_config: ''", "a path, or null"),
        ("log: {level: INFO}", "did you mean info?"),
        ("listen: localhost", "no port"),
        ("listen: a:65536", "above 65535"),
        ("listen: ::1:10091", "needs brackets"),
        ("listen: '[1.2.3.4]:5'", "only an IPv6 address"),
        ("listen: '[::g]:5'", "'::g'"),
        ("listen: 1.2.3:5", "'1.2.3'"),
        ("listen: 1.2.3.256:5", "'1.2.3.256'"),
        ("listen: 'a b:5'", "not a host name"),
        ("listen: " + "a" * 64 + ":5", "not a host name"),
        ("listen: 10091", "HOST:PORT"),
    ],
)
def test_a_value_that_cannot_be_is_refused(text: str, reason: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("x.yaml:1: ")
    assert reason in problem


@pytest.mark.parametrize("text", ["localhost:1", ":10091", "a.b-c.example.:80", "[fe80::1%eth0]:9"])
def test_listen_reads_back_what_it_writes(text: str) -> None:
    assert str(Listen.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("log: {level: info", "expected ',' or '}'"),
        ("a: b: c", "mapping values are not allowed"),
        ("log: {}\n---\nlog: {}", "expected a single document"),
        ("log: !!python/object/apply:os.system [id]", "tags such as"),
        ("log: !custom {}", "tags such as"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases are not supported"),
        ("programs: {include: [*xdp]}", "aliases are not supported"),
        ("[" * 100_000, "nested more than"),
        ("? " * 50_000, "nested more than"),
        ("log: \x00", "special characters"),
        ('log: "\\UFFFFFFFF"', "out of range"),
        ("%YAML 1." + "9" * 5000 + "\n---\n", "out of range"),
        ("listen: [::1]:10091", "expected the node content"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_a_hint(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml:\d: ") as caught:
        parse(text, "x.yaml")
    assert reason in str(caught.value)
    assert "quote" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["\tlog: {}", "flows:\n\ttop: 5", "flows:\n  top:\t5", "programs: {\n\tinclude: []}"]
)
def test_a_tab_gets_a_hint_about_spaces(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml:\d: .*cannot start any token") as caught:
        parse(text, "x.yaml")
    assert caught.value.hint == "use spaces: YAML allows no tab there"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("programs: {include: ['^xdp_.*$']}", "programs.include[0]: '^xdp_.*$' looks like a reg"),
        ("programs: {include: [ok, 'xdp_.*']}", "programs.include[1]: 'xdp_.*' looks like a reg"),
        ("programs: {exclude: [xdp_(a|b)]}", "programs.exclude[0]: 'xdp_(a|b)' looks like a reg"),
        (r"programs: {include: ['xdp_\d']}", r"'xdp_\d' looks like a regular expression"),
        ("programs: {include: [xdp_a+]}", "'xdp_a+' looks like a regular expression"),
        ("interfaces: {include: ['lxc{a,b}']}", "interfaces.include[0]: 'lxc{a,b}' has braces"),
        ("interfaces: {include: ['!eth*']}", "'!eth*' begins with !: a glob cannot be neg"),
        ("interfaces: {include: ['eth0,eth1']}", "'eth0,eth1' has a comma: give each glob as an"),
        ("interfaces: {include: [eth0 eth1]}", "'eth0 eth1' has a space: give each glob as an"),
        ("interfaces: {exclude: ['eth[0-9']}", "'eth[0-9' has a bracket without its counterpart"),
        ("interfaces: {exclude: ['[^e]*']}", "'[^e]*' has [^: a set of other characters is [!"),
        ("interfaces: {exclude: ['eth0:1']}", "'eth0:1' has a character that no interface"),
        ("interfaces: {include: [abcdefghijklmnop]}", "is longer than an interface's name, 15"),
        ("programs: {include: []}", "programs.include: is empty: nothing is observed"),
        ("interfaces: {exclude: ['*']}", "interfaces.exclude: '*' matches all: nothing is observ"),
    ],
)
def test_a_glob_that_matches_nothing_is_warned_of(text: str, said: str) -> None:
    (warning,) = warnings(parse(text, "x.yaml"))
    assert said in str(warning)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "programs: {include: [xdp_*, 12, 3b185187f1855c4c, '[!a]?', '[]]x', 'foo.llvm.*', a$b]}",
        "programs: {exclude: ['(unnamed)', 'core::xdp.1', '*.cold']}",
        "interfaces: {include: ['eth0.*', eth-1, 'ens[0-9]*', '[!l]*', '*'], exclude: [br-1+]}",
    ],
)
def test_a_glob_that_may_match_is_not(text: str) -> None:
    assert warnings(parse(text, "x.yaml")) == []


def test_a_flood_of_problems_is_cut() -> None:
    found = problems("".join(f"key{n}: 1\n" for n in range(1000)))
    assert len(found) == 51
    assert found[-1] == "x.yaml: … and 950 more problems"


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(str(path))
        return str(caught.value)

    assert "No such file" in refused(tmp_path / "absent")
    assert "Is a directory" in refused(tmp_path)
    assert "larger than 256 KiB" in refused(Path("/dev/zero"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("# first\nlisten: café:1\n".encode("latin-1"))
    assert ":2: not UTF-8" in refused(latin)
    latin.write_bytes("listen: localhost:1\n".encode("utf-16"))
    assert "not UTF-8" in refused(latin)


def test_nothing_but_a_config_error_comes_of_damage() -> None:
    rng = random.Random(7)
    base = EXAMPLE.read_text()
    refused = 0
    for _ in range(150):
        text = base[: rng.randrange(len(base))]
        for _ in range(6):
            at = rng.randrange(len(text) + 1)
            text = (
                text[:at]
                + rng.choice("[]{}:,*&!|>\"'%@`#-?\n\t\\\x85\u2028\ufeff~\x1b")
                + text[at:]
            )
        try:
            parse(text, "x.yaml")
        except ConfigError as error:
            refused += 1
            assert all(line.isprintable() for line in str(error).split("\n"))
    assert refused > 50


def test_selection_admits_by_any_name_and_excludes_by_any() -> None:
    chosen = GlobFilter(include=("xdp_*", "17"), exclude=("*_test", "3b185187f1855c4c"))
    assert chosen.admits("xdp_main", "5", "aaaa")
    assert chosen.admits("other", "17", "aaaa")
    assert not chosen.admits("other", "18", "aaaa")
    assert not chosen.admits("xdp_test", "17", "aaaa")
    assert not chosen.admits("xdp_main", "5", "3b185187f1855c4c")
    assert not chosen.admits("XDP_main"), "globs tell case apart"
    assert not GlobFilter(include=()).admits("xdp_main")
    assert not GlobFilter().admits()
