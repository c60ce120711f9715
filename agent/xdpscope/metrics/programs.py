# SPDX-License-Identifier: Apache-2.0
"""Metrics of programs: which exist, where they are attached, whether they are traced."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xdpscope.attach.reason import Reason
from xdpscope.kernel.boot import BOOT_CLOCK

if TYPE_CHECKING:
    from xdpscope.report import ProgramStatus

_PROGRAM = ["program_id", "program"]


class ProgramCollector(Collector):
    """``xdp_program_*``, and what tracing each program misses and costs."""

    def __init__(
        self,
        statuses: "Callable[[], Sequence[ProgramStatus]]",
        expects: Callable[..., bool | None] = lambda *_: None,
    ) -> None:
        """Collect nothing yet.

        Args:
            statuses: Returns all programs.
            expects: Returns whether a program with these names is expected; None: any is.
        """
        self._statuses = statuses
        self._expects = expects

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily(
            "xdp_program_info",
            "An XDP program that is loaded.",
            labels=[*_PROGRAM, "tag", "role", "attach_type"],
        )
        attachment = GaugeMetricFamily(
            "xdp_program_attachment_info",
            "A location where an XDP program receives packets; via names the bond that it is"
            " attached to, if it is not attached to the interface itself.",
            labels=[*_PROGRAM, "netns", "interface", "mode", "via"],
        )
        component = GaugeMetricFamily(
            "xdp_program_component_info",
            "A component's place in the chain of a dispatcher; the first has position 0.",
            labels=[*_PROGRAM, "dispatcher_id", "position"],
        )
        traced = GaugeMetricFamily(
            "xdp_program_traced",
            "Whether what a program decides is counted; if not, the reason.",
            labels=[*_PROGRAM, "reason"],
        )
        loaded = GaugeMetricFamily(
            "xdp_program_loaded_timestamp_seconds",
            "When an XDP program was loaded, in Unix time.",
            labels=_PROGRAM,
        )
        expected = GaugeMetricFamily(
            "xdp_program_expected",
            "Whether a program is in programs.expected. No series if that list is empty.",
            labels=_PROGRAM,
        )
        missed = CounterMetricFamily(
            "xdpscope_tracer_missed",
            "Packets that a tracer was not run for, because it was running already.",
            labels=_PROGRAM,
        )
        cost = CounterMetricFamily(
            "xdpscope_tracer_run_seconds",
            "Time spent in a tracer while the kernel's statistics of BPF programs were on. The"
            " agent switches them on for 1 % of the time.",
            labels=_PROGRAM,
        )
        runs = CounterMetricFamily(
            "xdpscope_tracer_runs",
            "Runs of a tracer that xdpscope_tracer_run_seconds_total covers, one for each packet.",
            labels=_PROGRAM,
        )
        for status in self._statuses():
            program = status.program
            labels = [str(program.id), program.function]
            traced.add_metric([*labels, status.reason or ""], int(status.reason is None))
            missed.add_metric(labels, status.missed)
            if status.run_seconds is not None:
                cost.add_metric(labels, status.run_seconds)
                runs.add_metric(labels, status.runs)
            if status.reason is Reason.VANISHED:
                continue
            if program.load_time:
                loaded.add_metric(labels, BOOT_CLOCK.unix_time(program.load_time))
            if (is_expected := self._expects(*program.selectors)) is not None:
                expected.add_metric(labels, int(is_expected))
            part = status.part
            info.add_metric([*labels, program.tag, part.role, program.attach_type], 1)
            for position in part.chain:
                component.add_metric([*labels, str(position.dispatcher), str(position.position)], 1)
            for at in status.attachments:
                if at.receives:
                    where = [at.netns, at.interface, at.mode, at.via]
                    attachment.add_metric([*labels, *where], 1)
        return [info, attachment, component, loaded, expected, traced, missed, cost, runs]
