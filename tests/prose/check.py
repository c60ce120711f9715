# SPDX-License-Identifier: Apache-2.0
"""Refuse words that docs/glossary.md replaces, and misspelled words.

codespell checks single words, by its own dictionary and by ``words.txt``. It knows no phrases, and
cannot distinguish prose from identifiers. Comments, docstrings and documents are compared with
``phrases.txt`` too. ``ignored.txt`` has words that tests misspell on purpose.

    python -m tests.prose.check             # all files of the repository
    python -m tests.prose.check FILE...
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]

_SKIPPED = re.compile(
    r"^(LICENSES/|requirements/|dashboards/\w+\.json|tests/kernel/captures/|tests/prose/\w+\.txt"
    r"|tests/unit/test_prose\.py"
    r"|.*\.(png|svg|pcap)$)"
    r"|^dashboards/grafana/"
)
"""Files that hold no prose of ours."""

_CONSTANT = r"\b[A-Z][A-Z0-9_]+\b"

_COMMENTS = re.compile(r"/\*.*?\*/|//[^\n]*|<!--.*?-->", re.DOTALL)
_SCRIPT_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*")
# What stands between two words of one comment: the end of a line, and the next line's marker.
_GAP = r"\s+(?:(?:#|\*|//)\s+)?"


def phrases() -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns of ``phrases.txt``, each with its replacement."""
    found = []
    for line in (_HERE / "phrases.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern, replacement = line.split(" -> ")
            compiled = rf"(?<![\w`.-])(?:{pattern.replace(' ', _GAP)})(?![\w`(-])"
            found.append((re.compile(compiled, re.IGNORECASE), replacement))
    return found


def prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file, in parts: the number of the first line, and the text.

    Args:
        name: The file's name; its suffix says what is prose in it.
        text: What the file contains.
    """
    if name.endswith(".py"):
        yield from _python(text)
    elif name.endswith((".md", ".txt", ".html")):
        yield 1, text
    else:
        c = name.endswith((".c", ".h", ".js", ".jsx", ".mjs", ".css"))
        for match in (_COMMENTS if c else _SCRIPT_COMMENT).finditer(text):
            yield text.count("\n", 0, match.start()) + 1, match.group()


def _python(text: str) -> Iterator[tuple[int, str]]:
    first, comment = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            first = first or token.start[0]
            comment += f"{token.string}\n"
        elif token.type != tokenize.NL and comment:
            yield first, comment
            first, comment = 0, ""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield node.lineno, docstring


def problems(name: str, text: str) -> list[str]:
    """Return a line for each refused expression in the prose of a file."""
    return [
        f"{name}:{line + part.count(chr(10), 0, match.start())}: "
        f"{' '.join(match.group().split())} ==> {replacement}"
        for line, part in prose(name, text)
        for pattern, replacement in phrases()
        for match in pattern.finditer(part)
    ]


def misspelled(paths: Sequence[Path]) -> list[str]:
    """Return codespell's report on these files, a line for each word."""
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "--dictionary", "-",
         "--dictionary", _HERE / "words.txt", "--ignore-words", _HERE / "ignored.txt",
         "--ignore-regex", _CONSTANT, *paths],
        capture_output=True, text=True, cwd=_ROOT,
    )  # fmt: skip
    if done.returncode not in (0, 65):  # EX_DATAERR: there are words to report
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()


def checked(names: Sequence[str]) -> list[Path]:
    """Return those of these files, or of all that git has, in which prose is checked."""
    if not names:
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=_ROOT, text=True)
        names = [name for name in listed.split("\0") if name]
    return [Path(name) for name in names if not _SKIPPED.match(name) and (_ROOT / name).is_file()]


def main() -> int:
    """Print what is refused; return 1 if that is anything."""
    paths = checked(sys.argv[1:])
    found = misspelled(paths)
    for path in paths:
        found += problems(str(path), (_ROOT / path).read_text())
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
