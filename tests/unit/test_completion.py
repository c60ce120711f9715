# SPDX-License-Identifier: Apache-2.0
"""Shell completion and the manual page: they have every command and every option."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess

import pytest
from docs.commands import SHARE

from xdpscope.cli.parser import EXIT_STATUSES, build
from xdpscope.program_types.xdp import VERDICTS

PARSER, COMMANDS = build()
BASH = SHARE / "bash-completion" / "completions" / "xdpscope"
# One completion, as bash asks for it.
ASK = """source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_xdpscope; echo "${COMPREPLY[@]}"
"""


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options, without those of every command."""
    names = {name for action in parser._actions for name in action.option_strings}
    return {name for name in names if name.startswith("--")}


def offered(*words: str) -> set[str]:
    """What bash offers for the last of these words."""
    command = ["bash", "-c", ASK, "bash", BASH, "xdpscope", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_every_command_and_option() -> None:
    assert offered("") == set(COMMANDS)
    assert offered("--log-level", "debug", "d") == {"doctor"}
    assert offered("--") == options(PARSER)
    for name, command in COMMANDS.items():
        assert offered(name, "--") == options(command)
    assert offered("list", "--watch", "--c") == {"--connect", "--ca", "--cert"}
    assert offered("flows", "--verdict", "") == set(VERDICTS)
    assert offered("list", "--log-format", "") == {"console", "json"}


def test_zsh_and_fish_complete_every_command_and_option() -> None:
    zsh = (SHARE / "zsh/site-functions/_xdpscope").read_text()
    fish = (SHARE / "fish/vendor_completions.d/xdpscope.fish").read_text()
    assert zsh.startswith("#compdef xdpscope\n")
    # Its value may be left out.
    assert ":SECONDS:" not in zsh and "-l watch -d " in fish
    for name, command in COMMANDS.items():
        array = zsh.partition(f"_shtab_xdpscope_{name.replace('-', '_')}_options=(\n")[2]
        array = array.partition("\n)\n")[0]
        lines = [line for line in fish.splitlines() if f"_using {name}' " in line]
        assert re.search(rf"^ +{name}:", zsh, re.MULTILINE)
        for option in options(command):
            assert re.search(rf"{option}[\[}}]", array), (name, option)
            assert any(f" -l {option[2:]} " in line for line in lines), (name, option)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_its_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (script,) = (path for path in SHARE.glob(f"{shell}*/*/*") if "xdpscope" in path.name)
    done = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_page_has_every_command_option_and_exit_status() -> None:
    page = (SHARE / "man/man8/xdpscope.8").read_text().replace("\\-", "-")
    for name, command in COMMANDS.items():
        section = page.partition(f"\n.SS {name}\n")[2].partition("\n.S")[0]
        assert command.description in section
        assert f"\n    xdpscope {name}" in section  # its example
        for option in options(command) - options(PARSER):
            assert f"\\fB{option}\\fR" in section, (name, option)
    everywhere = page.partition("\n.SH GLOBAL OPTIONS\n")[2]
    assert all(option in everywhere for option in options(PARSER) - {"--version"})
    for status, text in EXIT_STATUSES.items():
        assert f"\n.B {status}\n{text}\n" in everywhere
    assert "xdpscope --version" in page


def test_groff_has_no_complaint_about_the_manual_page() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-Tutf8", "-ww", "-z", SHARE / "man/man8/xdpscope.8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
