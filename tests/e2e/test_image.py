# SPDX-License-Identifier: Apache-2.0
"""The files of the image, on the host: a virtual machine takes half a minute to list them."""

from pathlib import Path

from tests.e2e.image import ROOT


def test_the_image_contains_the_licences() -> None:
    for name in ("LICENSE", "LICENSES/Apache-2.0.txt", "LICENSES/GPL-2.0-only.txt"):
        text = Path(name).read_bytes()
        assert (ROOT / "usr/share/doc/xdpscope" / name).read_bytes() == text
        (inside,) = (ROOT / "opt/xdpscope").rglob(f"xdpscope-*.dist-info/licenses/{name}")
        assert inside.read_bytes() == text


def test_nothing_to_build_with_and_nothing_to_write_to() -> None:
    def has(name: str) -> bool:
        return any(
            (ROOT / location / name).exists() for location in ("usr/bin", "opt/xdpscope/bin")
        )

    assert has("xdpscope") and has("python3")
    assert not any(map(has, ("clang", "gcc", "cc", "pip", "pip3", "ld", "make")))
    inside = [path for path in (ROOT / "opt/xdpscope").rglob("*") if not path.is_symlink()]
    assert inside and not [path for path in inside if path.stat().st_mode & 0o222]
    assert (ROOT / "opt/xdpscope/lib/python3.11/site-packages/xdpscope/__pycache__").is_dir()
