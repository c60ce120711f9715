# SPDX-License-Identifier: Apache-2.0
"""What pyproject.toml cannot express: cffi, clang, and where a release is published."""

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.command.egg_info import egg_info

SOURCES = Path("bpf")
PACKAGE = Path("xdpscope/bpf")


class build_bpf(Command):
    """Compile each bpf/*/*.bpf.c to a CO-RE object inside the package."""

    description = "compile the BPF programs with clang"
    user_options: ClassVar = [("inplace", "i", "put them into the source tree")]
    boolean_options: ClassVar = ["inplace"]
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.inplace = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def _outputs(self) -> dict[Path, Path]:
        in_tree = self.editable_mode or self.inplace
        root = Path("agent") if in_tree else Path(self.build_lib or "build/lib")
        return {
            source: root / PACKAGE / source.with_suffix(".o").name
            for source in sorted(SOURCES.glob("*/*.bpf.c"))
        }

    def run(self) -> None:
        for source, output in self._outputs().items():
            output.parent.mkdir(parents=True, exist_ok=True)
            # v3 (jmp32, alu32): every kernel since 5.3 takes it.
            command = ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"]
            command += [f"-fdebug-prefix-map={Path.cwd()}=.", f"-I{SOURCES}", f"-I{SOURCES}/common"]
            command += ["-c", str(source), "-o", str(output)]
            self.announce(" ".join(command), level=2)
            try:
                subprocess.run(command, check=True)
            except FileNotFoundError:
                raise SystemExit("building xdpscope needs clang: install clang") from None

    def get_source_files(self) -> list[str]:
        return [str(path) for pattern in ("*.c", "*.h") for path in sorted(SOURCES.rglob(pattern))]

    def get_outputs(self) -> list[str]:
        return [str(output) for output in self._outputs().values()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class egg_info_with_urls(egg_info):
    """Say in the package where its sources are published: whoever releases it sets SOURCE."""

    def run(self) -> None:
        if source := os.environ.get("SOURCE"):
            self.distribution.metadata.project_urls = {"Source": source}
        super().run()


build.sub_commands.append(("build_bpf", None))

# One wheel for Python 3.11 and newer: cffi compiles the bindings for the stable ABI. Pythons
# without the GIL have none.
_STABLE_ABI = {} if sysconfig.get_config_var("Py_GIL_DISABLED") else {"py_limited_api": "cp311"}

setup(
    cffi_modules=["agent/xdpscope/libbpf/_build.py:ffibuilder"],
    cmdclass={"build_bpf": build_bpf, "egg_info": egg_info_with_urls},
    options={"bdist_wheel": _STABLE_ABI},
)
