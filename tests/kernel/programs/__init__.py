# SPDX-License-Identifier: Apache-2.0
"""The XDP programs under observation in the tests, compiled when they are needed.

``python -m tests.kernel.programs`` compiles them beforehand: an emulated machine takes
seconds where the host takes a moment.
"""

import compileall
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from xdpscope import __version__

SOURCES = Path(__file__).parent
REPOSITORY = SOURCES.parents[2]
OUTPUT = REPOSITORY / "build" / "test-programs"


@cache  # an emulated machine takes a fifth of a second to find what is older
def compiled(name: str, *flags: str) -> Path:
    """Return the object of ``name``.bpf.c, compiled if it is older than its source or a header."""
    source = SOURCES / f"{name}.bpf.c"
    output = OUTPUT / f"{name}{''.join(flags)}.bpf.o"
    sources = source, *(REPOSITORY / "bpf" / "common").glob("*.h")
    changed = max(each.stat().st_mtime for each in sources)
    if not output.exists() or output.stat().st_mtime < changed:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=OUTPUT, delete=False) as file:
            command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-Wall", "-Werror"]
            command += flags or ("-g",)
            command += [
                "-I",
                str(REPOSITORY / "bpf"),
                "-I",
                str(REPOSITORY / "bpf" / "common"),
                "-c",
                str(source),
                "-o",
                file.name,
            ]
            subprocess.run(command, check=True)
        Path(file.name).replace(output)
    return output


def another_build(version: str, devices: int = 4) -> Path:
    """Return a directory with the package, built once more from its sources and under another
    version.

    With the number of ``devices`` that a record has room for it has the same BPF programs and
    records as this one; with another number others, as good.
    """
    sources, package = REPOSITORY / "bpf", REPOSITORY / "agent" / "xdpscope"
    output = OUTPUT / f"xdpscope-{version}"
    changed = max(
        each.stat().st_mtime for each in (*sources.rglob("*.[ch]"), *package.rglob("*.py"))
    )
    if output.exists() and output.stat().st_mtime >= changed:
        return output
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUT) as directory:
        made = Path(directory) / "made"
        built = made / "xdpscope"
        shutil.copytree(package, built, ignore=shutil.ignore_patterns("__pycache__", "*.bpf.o"))
        shutil.copytree(sources, Path(directory) / "bpf")
        _replace(built / "__init__.py", f'"{__version__}"', f'"{version}"')
        header = Path(directory) / "bpf" / "common" / "xdpscope.h"
        _replace(header, "DEVICES_INLINE = 4,", f"DEVICES_INLINE = {devices},")
        for source in Path(directory).glob("bpf/*/*.bpf.c"):
            command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
            target = built / "bpf" / f"{source.stem}.o"
            command += [f"-fdebug-prefix-map={directory}=.", "-Ibpf", "-Ibpf/common"]
            command += ["-c", str(source.relative_to(directory)), "-o", str(target)]
            subprocess.run(command, check=True, cwd=directory)
        compileall.compile_dir(built, quiet=2)  # else an emulated machine does, for half a minute
        shutil.rmtree(output, ignore_errors=True)
        made.replace(output)
    return output


def newer_build() -> Path:
    """One that can go on with what this one has counted."""
    return another_build("99.0")


def other_build() -> Path:
    """One that cannot."""
    return another_build("100.0", devices=5)


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def compile_all() -> None:
    """Compile every program that the tests ask for."""
    for source in sorted(SOURCES.glob("*.bpf.c")):
        compiled(source.name.removesuffix(".bpf.c"))
    compiled("verdicts", "-g0")
    newer_build()
    other_build()
