# SPDX-License-Identifier: Apache-2.0
"""What the kernel's verifier has to do for a tracer: most of what attaching one costs."""

import re
from errno import EMFILE
from pathlib import Path

import pytest

from xdpscope.attach.engine import Engine
from xdpscope.attach.spec import KINDS
from xdpscope.attach.variants import FlowSizes
from xdpscope.errors import LoadError, TracingUnavailableError, VanishedError
from xdpscope.libbpf import Object, Program

pytestmark = pytest.mark.every_kernel

LIMIT = 12_000
"""Instructions. The verifier checks a function once more for each place that calls it, so one
more call may double what it has to do."""


@pytest.mark.parametrize("rate", [None, 1, 10], ids=["no flows", "each packet", "sampled"])
def test_no_program_takes_long_to_verify(rate: int | None) -> None:
    """Load the programs of all kinds as the engine does on this kernel."""
    before = set(Program.ids())
    flows = None if rate is None else FlowSizes(sets=64, sample_rate=rate)
    with Engine(flows) as engine:
        for kind in KINDS:
            engine.prepare(kind)
        found = {}
        for id in set(Program.ids()) - before:
            try:
                with Program.open(id) as program:
                    name, verified = program.info().name, _verified(program)
            except VanishedError:
                continue
            if verified is None:
                pytest.skip("before Linux 5.16 the kernel does not tell what it has verified")
            found[id, name] = verified
    assert len(found) >= 3, "the engine has loaded programs"
    assert {each: number for each, number in found.items() if number > LIMIT} == {}


@pytest.mark.first_kernel
def test_what_the_verifier_has_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt takes as long as all else until the engine is ready."""
    loaded: list[Object] = []

    def load(self: Object) -> None:
        loaded.append(self)
        original(self)

    original = Object.load
    monkeypatch.setattr(Object, "load", load)
    variants = []
    for _ in range(2):
        loaded.clear()
        with Engine(FlowSizes(sets=64, sample_rate=1)) as engine:
            variants.append(engine.templates.variant)
    assert variants[0] == variants[1]
    assert len(loaded) == 2, "the self-test, and what the kernel accepts"


def test_what_descriptors_were_missing_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel verifies a program before it reserves a descriptor: there is a log, too."""
    flows = FlowSizes(sets=64, sample_rate=1)
    with Engine(flows) as engine:
        usual = engine.templates.variant
    loaded: list[Object] = []

    def load(self: Object) -> None:
        loaded.append(self)
        if len(loaded) > 1:  # the first is the self-test
            raise LoadError("loading failed", EMFILE, "processed 95 insns")
        original(self)

    original = Object.load
    with monkeypatch.context() as patch:
        patch.setattr(Object, "load", load)
        with pytest.raises(TracingUnavailableError):
            Engine(flows)
    assert len(loaded) > 1
    with Engine(flows) as engine:
        assert engine.templates.variant == usual


def _verified(program: Program) -> int | None:
    text = Path(f"/proc/self/fdinfo/{program.fileno()}").read_text()
    found = re.search(r"^verified_insns:\s*(\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None
