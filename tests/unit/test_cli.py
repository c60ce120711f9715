# SPDX-License-Identifier: Apache-2.0
"""The command as a person types it: exit codes, help, errors."""

import json
import logging
import os
import platform
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from errno import EINVAL, EPERM
from functools import partial
from pathlib import Path
from typing import Self

import pytest
import structlog
from tests.unit.authority import HASH
from tests.unit.scene import VERDICTS, Scene, busy_host, program
from tests.unit.served import serving

from xdpscope.agent import Agent
from xdpscope.attach.engine import unavailable
from xdpscope.attach.reason import Reason
from xdpscope.cli import list as list_programs
from xdpscope.cli import run
from xdpscope.cli.parser import parse
from xdpscope.discovery.model import Attachment, ChainPosition, Mode, Part, Role, XdpProgram
from xdpscope.doctor import Finding, Status, conclusion
from xdpscope.errors import KernelError, XdpscopeError
from xdpscope.report import ProgramStatus

COMMANDS = ["run", "list", "doctor", "check-config", "flows", "trace", "capture", "help"]


# Runs a command on a machine that calls itself another one.
ELSEWHERE = ("setarch", "i686")


def xdpscope(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "xdpscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = xdpscope(command, "--help")
    assert result.returncode == 0
    assert f"example:\n  xdpscope {command}" in result.stdout


def test_help_lists_the_commands() -> None:
    result = xdpscope("--help")
    assert result.returncode == 0
    assert all(re.search(rf"^    {command} ", result.stdout, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("bogus",),
        ("run", "--listen", "nowhere"),
        ("run", "--listen", "127.0.0.1:99999"),
        ("--log-level", "loud", "list"),
        ("check-config",),
        ("list", "surplus"),
        ("help", "bogus"),
        ("flows", "--connect", "127.0.0.1:10091"),
        ("flows", "--connect", "ftp://127.0.0.1"),
        ("flows", "--connect", "http://127.0.0.1/?limit=1"),
        ("list", "--watch", "0"),
        ("list", "--watch", "--json"),
        ("trace", "--verdict", "dropped"),
        ("trace", "--min-latency", "20"),
        ("trace", "--emit", "both"),
        ("capture",),
        ("capture", "-w", "x", "--snaplen", "65536"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = xdpscope(*arguments)
    assert result.returncode == 2
    assert result.stdout == "" and "usage: xdpscope" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("trace", "tcp", "port", "http-"),
        ("capture", "-w", "x", "--keep", "2"),
        ("capture", "-w", "-", "--rotate", "1M"),
        ("capture", "-w", "x", "--last", "5"),
        ("capture", "-w", "x", "--last", "100000", "--on", "drop"),
        ("capture", "-w", "x", "--last", "5", "--on", "dropped"),
        ("capture", "-w", "x", "--last", "5", "--on", "drop", "--emit", "entry"),
    ],
)
def test_arguments_that_do_not_fit_together_are_exit_code_2(arguments: tuple[str, ...]) -> None:
    """One line says why. Nothing is attached, and no file is written."""
    result = xdpscope(*arguments)
    assert result.returncode == 2
    assert result.stdout == "" and result.stderr.startswith("xdpscope: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("lst",), "xdpscope: error: unknown command 'lst': did you mean list?"),
        (("debug",), "unknown command 'debug': commands are run, list, doctor, check-config, "),
        (("help", "flow"), "xdpscope help: error: unknown command 'flow': did you mean flows?"),
        (("list", "--jsn"), "xdpscope list: error: unknown argument: --jsn: did you mean --json?"),
        (("list", "--zzz"), "xdpscope list: error: unknown argument: --zzz\n"),
    ],
)
def test_a_mistyped_word_is_answered_with_a_suggestion(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert said in printed.err


def test_help_is_a_command_too() -> None:
    for about in ((), ("flows",)):
        result = xdpscope("help", *about)
        assert (result.returncode, result.stdout) == (0, xdpscope(*about, "--help").stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_global_options_are_accepted_before_and_after_the_command(command: str) -> None:
    words = [command, *{"check-config": ["x.yaml"], "capture": ["-w", "x"]}.get(command, [])]
    options = ["--log-level", "debug"]
    for arguments in parse([*options, *words]), parse([*words, *options]):
        assert (arguments.command, arguments.log_level, arguments.log_format) == (
            command,
            "debug",
            None,
        )
    arguments = parse([*options, *words, "--log-level", "error", "--log-format", "json"])
    assert (arguments.log_level, arguments.log_format) == ("error", "json")


@pytest.fixture
def restored_log() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("options", [(), ("--log-level", "debug", "--listen", "127.0.0.1:0")])
def test_the_command_line_wins_over_the_file_at_a_reload_too(
    options: tuple[str, ...], tmp_path: Path, restored_log: None
) -> None:
    file = tmp_path / "xdpscope.yaml"
    file.write_text("log: {level: info}\n")
    read = partial(run.configuration, parse(["run", "--config", str(file), *options]))
    agent = Agent(read(), read)
    file.write_text("log: {level: error}\nlisten: 127.0.0.1:9\n")
    agent._reload()
    assert logging.getLevelName(logging.root.level) == ("DEBUG" if options else "ERROR")


def test_version() -> None:
    from xdpscope import __version__

    result = xdpscope("--version")
    assert (result.returncode, result.stdout) == (0, f"xdpscope {__version__}\n")


def test_check_config_accepts_the_example() -> None:
    example = Path(__file__).parents[2] / "config" / "xdpscope.yaml"
    result = xdpscope("check-config", str(example))
    assert (result.returncode, result.stderr) == (0, "")


def test_check_config_names_file_and_key(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("discovery:\n  interval: often\nflow: {}\n")
    result = xdpscope("check-config", str(bad))
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{bad}:2: discovery.interval" in result.stderr
    assert f"{bad}:3: flow" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_an_error_in_web_config_names_the_key_that_leads_there(
    command: str, tmp_path: Path
) -> None:
    file, web = tmp_path / "xdpscope.yaml", tmp_path / "web.yml"
    file.write_text("flows: {top: 10}\nlisten: 127.0.0.1:0\nweb_config: web.yml\n")
    through = f"{file}:3: web_config: leads to {web}"
    arguments = (command, str(file)) if command != "run" else (command, "--config", str(file))

    def said() -> list[str]:
        result = xdpscope(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        if command == "run":
            return [str(each["error"]) for each in failures(result)]
        return result.stderr.removeprefix("xdpscope: ").splitlines()

    assert said() == [f"{web}: cannot be read: No such file or directory", through]
    web.write_text("tls_server_config:\n  cert_file: absent.crt\n  key_file: absent.key\n")
    first, second = said()
    assert first.startswith(f"{web}:2: tls_server_config.cert_file: ")
    assert f"{tmp_path / 'absent.crt'}" in first and second == through


def test_check_config_warns_of_globs_that_match_nothing(tmp_path: Path) -> None:
    file = tmp_path / "globs.yaml"
    file.write_text("programs: {include: ['^xdp_.*$']}\ninterfaces: {include: []}\n")
    result = xdpscope("check-config", str(file))
    assert (result.returncode, result.stdout) == (0, f"{file}: ok, with 2 warnings\n")
    assert result.stderr.splitlines() == [
        f"{file}: warning: programs.include[0]: '^xdp_.*$' looks like a regular expression, and"
        " is read as a shell glob: write xdp_* instead of ^xdp_.*$",
        f"{file}: warning: interfaces.include: is empty: nothing is observed",
    ]


def started(config: Path) -> list[dict[str, str]]:
    """Return what `run` logs, from its start on."""
    command = [sys.executable, "-m", "xdpscope", "--log-format", "json", "run", "--config", config]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        logged = [json.loads(process.stderr.readline())]
        process.terminate()
        logged += [json.loads(line) for line in process.stderr if line.startswith("{")]
    assert logged[0]["event"] == "listening"
    # Before it traces it has not started; whether that works here is up to the kernel.
    assert "started" not in [record["event"] for record in logged[:2]]
    return logged


def test_run_warns_of_globs_that_match_nothing(tmp_path: Path) -> None:
    file = tmp_path / "globs.yaml"
    file.write_text("listen: 127.0.0.1:0\nprograms: {include: ['xdp_{a,b}']}\n")
    (warning,) = (record for record in started(file) if record["level"] == "warning")
    assert (warning["event"], warning["key"]) == (
        "configuration is suspicious",
        "programs.include[0]",
    )
    assert "braces" in warning["problem"]


@pytest.mark.parametrize(
    ("host", "web", "warned"),
    [
        ("127.0.0.1", "", False),
        ("0.0.0.0", "", True),
        ("0.0.0.0", f"basic_auth_users: {{a: {HASH}}}", False),
    ],
)
def test_run_warns_when_everyone_can_read(
    host: str, web: str, warned: bool, tmp_path: Path
) -> None:
    (tmp_path / "web.yml").write_text(web)
    (tmp_path / "xdpscope.yaml").write_text(f"listen: {host}:0\nweb_config: web.yml\n")
    logged = started(tmp_path / "xdpscope.yaml")
    assert logged[0]["scheme"] == "http"
    assert any("everyone in reach" in record["event"] for record in logged) is warned


@pytest.mark.parametrize("command", ["check-config", "run"])
def test_a_configuration_that_cannot_be_read(command: str, tmp_path: Path) -> None:
    path = str(tmp_path / "absent.yaml")
    result = xdpscope(*((command, path) if command != "run" else (command, "--config", path)))
    assert result.returncode == 2
    assert path in result.stderr and "Traceback" not in result.stderr


def test_doctor_has_a_hint_for_what_is_not_ok() -> None:
    result = xdpscope("doctor", "--json")
    document = json.loads(result.stdout)
    checks = document["checks"]
    assert {"kernel BTF", "JIT", "fentry/fexit on BPF programs", "capabilities", "bpffs"} <= {
        each["check"] for each in checks
    }
    assert all(each["hint"] for each in checks if each["status"] in ("warn", "fail"))
    failed = any(each["status"] == "fail" for each in checks)
    assert (document["version"], document["works"]) == (1, not failed)
    assert result.returncode == int(failed)


@pytest.fixture
def as_nobody() -> tuple[str, ...]:
    """What to put before a command, so that an ordinary user runs it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    become = ("setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all")
    if subprocess.run([*become, "test", "-r", __file__], check=False).returncode:
        pytest.skip("nobody may not read this directory")
    return become


def test_without_root_doctor_says_so_once(as_nobody: tuple[str, ...]) -> None:
    result = xdpscope("doctor", prefix=as_nobody)
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.count("run as root") == 1
    last = "Whether xdpscope works on this host is not known: run as root."
    assert result.stdout.splitlines()[-1] == last


def test_without_root_list_prints_an_error_and_no_log(as_nobody: tuple[str, ...]) -> None:
    result = xdpscope("list", prefix=as_nobody)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        "xdpscope: listing BPF programs failed: Operation not permitted (EPERM)",
        "  hint: run as root: what others loaded is shown to CAP_SYS_ADMIN only",
    ]


class Surveyed:
    """Stands for the kernel: these programs are loaded."""

    def __init__(self, *statuses: ProgramStatus, unavailable: XdpscopeError | None = None) -> None:
        self.statuses, self.unavailable = statuses, unavailable

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def programs(self) -> tuple[ProgramStatus, ...]:
        return self.statuses

    def sockets(self) -> tuple[()]:
        return ()


def status(id: int, name: str, part: Part, at: Attachment, reason: Reason | None) -> ProgramStatus:
    program = XdpProgram(id, f"{id:016x}", name[:15], name, 3, True, "xdp")
    return ProgramStatus(program, part, (at,), reason, 0, None)


LONG = "rate_limit_per_source_and_destination_v6"
VETH = Attachment("cni-01234567", "veth12345", Mode.GENERIC)
COMPONENT = Part(Role.COMPONENT, (ChainPosition(38, 0), ChainPosition(60, 1)))
LISTED = (
    status(41, "xdpfilt_alw_all", COMPONENT, VETH, None),
    status(1041, LONG, COMPONENT, VETH, Reason.UNSUPPORTED_ENTRY),
)


@pytest.fixture
def nobody() -> str:
    """The address of no agent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_list_is_readable_at_80_columns(
    nobody: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xdpscope.cli.list.Survey", lambda: Surveyed(*LISTED))
    scene = busy_host()
    scene.programs()  # counts from now on
    with serving(scene) as served:
        for agent in nobody, f"http://127.0.0.1:{served.port}":
            for columns in 80, 200:
                monkeypatch.setenv("COLUMNS", str(columns))
                assert list_programs.run(parse(["list", "--connect", agent])) == 0
                printed = capsys.readouterr().out
                assert max(map(len, printed.splitlines())) <= columns
                assert "cni-01234567/veth12345" in printed and "no: unsupported_entry" in printed
                assert ("DROP" in printed) is (agent != nobody)
    assert f" {LONG} component" in printed


def test_list_shows_what_the_agent_of_this_host_has_counted(
    nobody: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("xdpscope.cli.list.Survey", lambda: Surveyed(*LISTED))
    counts = [
        {"netns": "host", "interface": name, "packets": dict.fromkeys(VERDICTS, 0) | packets}
        for name, packets in {"eth0": {"drop": 250, "pass": 700}, "eth1": {"tx": 50}}.items()
    ]
    scene = Scene([program(41, "xdpfilt_alw_all", counts=counts)], [])
    with serving(scene) as served:
        agent = f"http://127.0.0.1:{served.port}"
        assert list_programs.run(parse(["list", "--connect", agent])) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        head, counted, uncounted = (line for line in lines if line[0] in ("ID", "41", "1041"))
        assert head[-4:] == ["PACKETS", "DROP", "TRACEABLE", "UID"]
        assert counted[-4:] == ["1,000", "25.0%", "yes", "-"]
        assert uncounted[-5:] == ["-", "-", "no:", "unsupported_entry", "-"]
        # Another host's program may have the same id.
        scene.known[0]["tag"] = "0" * 16
        assert list_programs.run(parse(["list", "--connect", agent])) == 0
        assert "1,000" not in capsys.readouterr().out
    assert list_programs.run(parse(["list", "--connect", nobody])) == 0
    printed = capsys.readouterr()
    assert printed.err == f"No counts: no agent answers at {nobody}/: Connection refused\n"
    assert "PACKETS" not in printed.out and "xdpfilt_alw_all" in printed.out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may list the programs of others")
@pytest.mark.parametrize("terminal", [False, True])
def test_list_again_and_again_until_interrupted(terminal: bool, nobody: str) -> None:
    """On a terminal in place; elsewhere with an empty line between."""
    reader, writer = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "xdpscope", "list", "--watch", "0.1", "--connect", nobody]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with open(reader, "rb", buffering=0) as output:  # noqa: PTH123 - a descriptor
        process = subprocess.Popen(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment
        )
        os.close(writer)
        printed = b""
        while printed.count(b", every 0.1 s" if terminal else b"\n\n") < 3:
            received = output.read(65536)
            assert received, printed
            printed += received
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # a terminal whose other side is closed
            while output.read(65536):
                pass
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said and (b"\x1b[" in printed) is terminal
    assert not printed.startswith(b"\n")


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({}, "xdpscope works on this host."),
        ({"memlock": Status.WARN}, "xdpscope works on this host. Limited: memlock."),
        ({"JIT": Status.SKIP}, "xdpscope works on this host."),
        (
            {"JIT": Status.FAIL, "lockdown": Status.FAIL, "memlock": Status.WARN},
            "xdpscope does not work on this host. Failed: JIT, lockdown.",
        ),
    ],
)
def test_the_last_line_of_doctor(statuses: dict[str, Status], said: str) -> None:
    statuses = {"kernel": Status.OK} | statuses
    findings = [Finding(name, status, "") for name, status in statuses.items()]
    assert conclusion(findings) == said
    findings.append(Finding("kernel BTF", Status.FAIL, "", permanent=True))
    assert conclusion(findings) == "xdpscope cannot work on this host."


def failures(result: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    """What `run` logs about its end: each record in the log's format, and nothing besides."""
    records = [json.loads(line) for line in result.stderr.splitlines()]
    keys = ("error", "hint", "exit_status")
    return [
        {key: record[key] for key in keys if key in record}
        for record in records
        if (record["event"], record["level"]) == ("failed", "error")
    ]


def test_run_refuses_a_machine_that_is_not_supported() -> None:
    result = xdpscope("run", "--listen", "127.0.0.1:0", prefix=ELSEWHERE)
    assert (result.returncode, result.stdout) == (3, "")
    said = "i686 is not supported: counts would not be exact there"
    assert failures(result) == [{"error": said, "hint": "run it on x86_64", "exit_status": 3}]


def test_run_logs_each_problem_of_its_configuration(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("discovery: {interval: often}\nflow: {}\n")
    result = xdpscope("run", "--config", str(bad))
    assert (result.returncode, result.stdout) == (2, "")
    first, second = failures(result)
    assert str(first["error"]).startswith(f"{bad}:1: discovery.interval: ")
    assert str(second["error"]).startswith(f"{bad}:2: flow: ") and second["exit_status"] == 2
    result = xdpscope("run", "--config", str(bad), "--log-format", "console")
    assert [
        re.search(r"\[error +\] failed ", line) is not None for line in result.stderr.splitlines()
    ] == [True, True]


def test_run_logs_a_fault_of_its_own_in_the_same_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], restored_log: None
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("xdpscope.agent.run", broken)
    assert run.run(parse(["run", "--log-format", "json"])) == 1
    (record,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert record["event"] == "failed" and "ZeroDivisionError" in record["exception"]


@pytest.mark.parametrize(
    ("checks", "errno", "status", "said"),
    [
        ({"_BTF": "/absent"}, EINVAL, 3, "this kernel has no BTF: "),
        ({"_JIT": "/absent"}, EINVAL, 3, "this kernel has no BPF JIT"),
        ({"_JIT": "0\n"}, EINVAL, 1, "the BPF JIT is off"),
        ({"_LOCKDOWN": "none integrity [confidentiality]\n"}, EPERM, 3, "lockdown is in the mode"),
        ({}, EPERM, 1, "the capabilities are there: this kernel forbids it"),
        ({}, 524, 3, "this kernel cannot attach fentry and fexit"),
        ({"release": "5.4.0-26-generic"}, EINVAL, 3, "Linux 5.4.0-26-generic is too old"),
        ({"release": "5.10.0"}, EINVAL, 1, "loading x failed: Invalid argument (EINVAL)"),
    ],
)
def test_why_nothing_can_be_traced(
    checks: dict[str, str],
    errno: int,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit status is 3 only if neither rights nor settings help."""
    host = {"_BTF": "", "_JIT": "1\n", "_LOCKDOWN": "[none]\n", "release": "6.12.1"} | checks
    release = host.pop("release")
    monkeypatch.setattr(platform, "release", lambda: release)
    monkeypatch.setattr("xdpscope.kernel.capabilities.may_open_programs", lambda: True)
    for name, content in host.items():
        path = Path(content) if content == "/absent" else tmp_path / name
        if path.parent == tmp_path:
            path.write_text(content)
        monkeypatch.setattr(f"xdpscope.kernel.requirements.{name}", path)
    error = unavailable(KernelError("loading x failed", errno))
    assert error.exit_status == status and error.hint
    assert str(error).startswith("cannot trace BPF programs: ") and said in str(error)


def test_doctor_says_that_a_machine_is_not_supported() -> None:
    result = xdpscope("doctor", "--json", prefix=ELSEWHERE)
    document = json.loads(result.stdout)
    (machine,) = (each for each in document["checks"] if each["check"] == "machine")
    assert document["works"] is False
    assert (result.returncode, machine["status"]) == (3, "fail")
    assert machine["found"] == "i686 is not supported: counts would not be exact there"
    (machine,) = (
        each
        for each in json.loads(xdpscope("doctor", "--json").stdout)["checks"]
        if each["check"] == "machine"
    )
    assert (machine["status"], machine["found"]) == ("ok", "x86_64")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m xdpscope doctor | true"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in result.stderr and "BrokenPipe" not in result.stderr
