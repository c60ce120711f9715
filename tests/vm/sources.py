# SPDX-License-Identifier: Apache-2.0
"""Where kernels may be fetched from, read out of this machine's own apt sources, either format."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .kernels import VmError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .kernels import Kernel

MIRROR_VARIABLE = "XDPSCOPE_VM_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources, either format."""

    uris: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str]

    def stanza(self) -> str:
        """Return the entry in the deb822 format."""
        fields = {
            "Types": "deb",
            "URIs": self.uris,
            "Suites": " ".join(self.suites),
            "Components": " ".join(self.components),
            **self.options,
        }
        return "".join(f"{name}: {value}\n" for name, value in fields.items())


def sources_for(wanted: Kernel) -> list[Source]:
    """Return the sources of the packages: this machine's own archive, or another suite on its
    mirror.
    """
    os_release = _os_release()
    codename = os_release.get("VERSION_CODENAME", "")
    aliases = {codename, "stable", "oldstable", "testing", "unstable", "sid"} - {""}
    own = [
        source
        for source in _machine_sources()
        if "main" in source.components
        and any(suite.partition("-")[0] in aliases for suite in source.suites)
    ]
    if wanted.suite is None:
        if not own:
            raise VmError(
                "this machine's apt sources name no archive of its own distribution; see /etc/apt"
            )
        return own
    mirror = os.environ.get(MIRROR_VARIABLE)
    if mirror:
        options = {"Signed-By": str(KEYRING)} if KEYRING.exists() else {}
        return [Source(mirror, (wanted.suite,), ("main",), options)]
    if os_release.get("ID") == "debian":
        for source in own:
            if aliases.intersection(source.suites):  # the archive itself: no updates, no security
                options = dict(source.options)
                if "Signed-By" not in options and KEYRING.exists():
                    options["Signed-By"] = str(KEYRING)
                return [Source(source.uris, (wanted.suite,), ("main",), options)]
    raise VmError(
        f"kernel {wanted.name} comes from Debian {wanted.suite}, and this machine's apt sources "
        f"name no Debian mirror; set {MIRROR_VARIABLE} to the address of one and install "
        "debian-archive-keyring"
    )


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def _machine_sources(etc: Path = Path("/etc/apt")) -> Iterator[Source]:
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix == ".list" and path.is_file():
            yield from _parse_list(path.read_text())
        elif path.suffix == ".sources" and path.is_file():
            yield from _parse_deb822(path.read_text())


def _parse_list(text: str) -> Iterator[Source]:
    """Yield the one-line format: ``deb [option=value …] URI SUITE COMPONENT…``."""
    names = {"signed-by": "Signed-By", "trusted": "Trusted"}
    for line in text.splitlines():
        match = re.match(
            r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)", line.partition("#")[0].strip()
        )
        if match:
            given = dict(option.partition("=")[::2] for option in (match[1] or "").split())
            options = {names[name]: value for name, value in given.items() if name in names}
            yield Source(match[2], (match[3],), tuple(match[4].split()), options)


def _parse_deb822(text: str) -> Iterator[Source]:
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    for fields in stanzas("\n".join(lines)):
        enabled = fields.get("Enabled", "yes").lower() not in {"no", "false", "0"}
        if enabled and "deb" in fields.get("Types", "").split():
            options = {name: fields[name] for name in fields if name in {"Signed-By", "Trusted"}}
            suites = tuple(fields.get("Suites", "").split())
            components = tuple(fields.get("Components", "").split())
            yield Source(fields.get("URIs", ""), suites, components, options)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Paragraphs of ``Name: value``; a value keeps its continuation lines, as a key needs."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in paragraph.splitlines():
            if line[:1] in {" ", "\t"} and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields
