# SPDX-License-Identifier: Apache-2.0
"""Shell globs that match nothing because they are written in another notation."""

from __future__ import annotations

import re

__all__ = ["doubt"]

_SET = re.compile(r"\[!?.[^\]]*\]")
# A function's name may have a dot, as in foo.llvm.123, but then no asterisk follows the first one.
_REGULAR = re.compile(r"\^|.*\$$|.*[\\|]")
_REGULAR_OF_PROGRAMS = re.compile(r"[^.]*\.[*+]|.*\+")
_LONGEST_INTERFACE = 15


def doubt(glob: str, of_interfaces: bool) -> str:
    """Return why a glob hardly matches any name, as the end of a sentence; empty if it may."""
    bare = _SET.sub("?", glob)
    if "[^" in glob:
        return "has [^: a set of other characters is [!...]"
    if "[" in bare or "]" in bare:
        return "has a bracket without its counterpart"
    if _REGULAR.match(bare) or (not of_interfaces and _REGULAR_OF_PROGRAMS.match(bare)):
        return f"looks like a regular expression, and is read as a shell glob{_instead(glob)}"
    if bare.startswith("!"):
        return "begins with !: a glob cannot be negated, use include and exclude"
    if "{" in bare or "}" in bare:
        return "has braces: give each alternative as an item of its own"
    for character, name in ((",", "comma"), (" ", "space")):
        if character in bare:
            return f"has a {name}: give each glob as an item of its own"
    if of_interfaces and re.search("[:/]", bare):
        return "has a character that no interface's name has"
    if of_interfaces and len(bare.replace("*", "").encode()) > _LONGEST_INTERFACE:
        return f"is longer than an interface's name, {_LONGEST_INTERFACE} bytes at most"
    return ""


def _instead(regular: str) -> str:
    glob = regular.removeprefix("^").removesuffix("$").replace(".*", "*")
    if not glob or re.search(r"[^\w*-]", glob):
        return ""
    return f": write {glob} instead of {regular}"
