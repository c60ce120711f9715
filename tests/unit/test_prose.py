# SPDX-License-Identifier: Apache-2.0
"""The check of prose refuses each replaced expression, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.prose import check

WORDS = [
    line.partition("->")[0]
    for line in Path(check.__file__).with_name("words.txt").read_text().splitlines()
]
REPLACED = [
    "nought",
    "anew",
    "for want of",
    "dear",
    "of late",
    "told",
    "look",
    "looked",
    "let go",
    "lets go",
    "take over",
    "taken over",
    "whichever",
    "amiss",
    "cure",
]

KINDS = {
    "docstring.py": '"""Do {} here."""\n',
    "comment.py": "at = 1  # do {}\n",
    "comment.c": "/* do {} */\n",
    "line.c": "int at; // do {}\n",
    "script.sh": "# do {}\n",
    "values.yml": "at: 1 # do {}\n",
    "page.md": "Do {} here.\n",
}


def found(*files: tuple[Path, str]) -> list[str]:
    """Return what the check reports on these files, which it writes first; one run is faster."""
    for path, text in files:
        path.write_text(text)
    report = check.misspelled([path for path, _ in files])
    for path, text in files:
        report += check.problems(str(path), text)
    return report


def test_refuses_each_replaced_expression_in_each_kind_of_file(tmp_path):
    files = []
    for number, expression in enumerate(sorted({*WORDS, *REPLACED})):
        for spelled in (expression, expression.capitalize()):
            for name, text in KINDS.items():
                path = tmp_path / f"{number}{spelled[0]}{name}"
                files.append((path, text.format(spelled)))
    report = found(*files)
    for path, text in files:
        assert len([line for line in report if line.startswith(f"{path}:1: ")]) == 1, text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("code.py", "# It is done for want\n# of a better way.\n"),
        ("code.py", '"""Do.\n\n    It is done for want\n    of a better way.\n    """\n'),
        ("code.c", "/*\n * Done for want\n * of a better way.\n */\n"),
        ("page.md", "- Done for want\n  of a better way.\n"),
    ],
)
def test_refuses_a_phrase_across_lines(name, text):
    assert len(check.problems(name, text)) == 1


def test_allows_identifiers_and_other_meanings(tmp_path):
    assert not found(
        (tmp_path / "a.py", 'told = look(told)  # it looks up the name\nprint("told")\n'),
        (tmp_path / "b.py", '"""Call ``look()`` in ``told``, and look it up."""\n'),
        (tmp_path / "c.py", "NOUGHT = 0\n"),
    )


def test_fails_by_its_exit_code(tmp_path):
    path = tmp_path / "page.md"
    for text, code in (("Start again.\n", 0), ("Start anew.\n", 1), ("It occured.\n", 1)):
        path.write_text(text)
        command = [sys.executable, "-m", "tests.prose.check", str(path)]
        assert subprocess.run(command, capture_output=True).returncode == code
