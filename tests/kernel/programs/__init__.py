# SPDX-License-Identifier: Apache-2.0
"""The XDP programs under observation in the tests, compiled when they are needed.

``python -m tests.kernel.programs`` compiles them beforehand: an emulated machine takes
seconds where the host takes a moment.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
REPOSITORY = SOURCES.parents[2]
OUTPUT = REPOSITORY / "build" / "test-programs"


def compiled(name: str, *flags: str) -> Path:
    """The object of ``name``.bpf.c, compiled if it is older than its source."""
    source = SOURCES / f"{name}.bpf.c"
    output = OUTPUT / f"{name}{''.join(flags)}.bpf.o"
    if not output.exists() or output.stat().st_mtime < source.stat().st_mtime:
        OUTPUT.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=OUTPUT, delete=False) as file:
            command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-Wall", "-Werror"]
            command += flags or ("-g",)
            command += ["-I", str(REPOSITORY / "bpf"), "-c", str(source), "-o", file.name]
            subprocess.run(command, check=True)
        Path(file.name).replace(output)
    return output


def other_build() -> Path:
    """A directory with another build of the package, as good, whose records have another layout."""
    sources, package = REPOSITORY / "bpf", REPOSITORY / "agent" / "xdpscope"
    output = OUTPUT / "other-build"
    changed = max(each.stat().st_mtime for each in (*sources.iterdir(), *package.rglob("*.py")))
    if output.exists() and output.stat().st_mtime >= changed:
        return output
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OUTPUT) as directory:
        made = Path(directory) / "made"
        shutil.copytree(package, made / "xdpscope", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(sources, Path(directory) / "bpf")
        header = Path(directory) / "bpf" / "xdpscope.h"
        text = header.read_text()
        assert text.count("DEVICES_INLINE = 4,") == 1
        header.write_text(text.replace("DEVICES_INLINE = 4,", "DEVICES_INLINE = 5,"))
        for name in ("flows", "verdicts"):
            source = Path(directory) / "bpf" / f"{name}.bpf.c"
            command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
            command += ["-c", str(source), "-o", str(made / "xdpscope" / "bpf" / f"{name}.bpf.o")]
            subprocess.run(command, check=True)
        shutil.rmtree(output, ignore_errors=True)
        made.replace(output)
    return output


def compile_all() -> None:
    """Compiles every program that the tests ask for."""
    for source in sorted(SOURCES.glob("*.bpf.c")):
        compiled(source.name.removesuffix(".bpf.c"))
    compiled("verdicts", "-g0")
    other_build()
