# SPDX-License-Identifier: Apache-2.0
"""Outcomes: from records of the kernel to series that begin at 0, only grow, and stay a while."""

from dataclasses import replace

import pytest

from xdpscope.discovery.model import Mode, Snapshot, XdpProgram
from xdpscope.probes.outcomes import drivers
from xdpscope.probes.outcomes.totals import RETENTION, Series, Totals, errno_name
from xdpscope.probes.outcomes.tracepoints import Device, Outcome, Record

NETNS, INODE = 7, 4026531840
ETH0, ETH1 = Device(NETNS, 2, INODE, "eth0"), Device(NETNS, 3, INODE, "eth1")
ERROR = Record(
    Outcome.REDIRECT_ERROR, b"error", 0, 0, -100, 61, "redirect_by_num", 0, ETH0, None
)  # fmt: skip
TRANSMIT = Record(Outcome.DEVMAP_TRANSMIT, b"transmit", 0, 0, 0, 0, "", 0, ETH0, ETH1)
CPUMAP = Record(Outcome.CPUMAP, b"cpumap", 0, 0, 0, 0, "", 9, None, None)
KTHREAD = replace(CPUMAP, key=b"kthread", code=1)
PROGRAM = XdpProgram(61, "", "redirect_by_num", "redirect_by_number", 1, True, "xdp", map_ids=(9,))


def host(*names: str, programs: tuple[XdpProgram, ...] = (PROGRAM,)) -> Snapshot:
    """One namespace, with interfaces whose ifindexes are 2, 3, …; without a name, none."""
    return Snapshot(
        programs={each.id: each for each in programs},
        interfaces={(NETNS, 2 + at): ("host", name) for at, name in enumerate(names) if name},
        namespaces={NETNS: (INODE, "host")},
    )


class CounterReader:
    """Totals, and the records that were deleted from the kernel."""

    def __init__(self, patience: float = 0) -> None:
        self.totals = Totals(patience)
        self.now = 1000.0
        self.deleted: list[bytes] = []
        self.late = 0  # packets between the last reading and the deletion

    def update(self, snapshot: Snapshot, *records: Record, after: float = 5) -> dict[str, int]:
        """Values by the labels, joined."""
        self.now += after
        self.totals.update(snapshot, records, self._delete, self.now)
        return self.values()

    def values(self) -> dict[str, int]:
        return {" ".join(series.labels): value for series, value in self.totals.values()}

    def _delete(self, record: Record) -> Record:
        self.deleted.append(record.key)
        return replace(record, failed=record.failed + self.late)


def test_labels() -> None:
    found = CounterReader().update(
        host("eth0", "eth1"),
        replace(ERROR, failed=3),
        replace(TRANSMIT, succeeded=40, failed=2),
        replace(CPUMAP, succeeded=30, failed=5),
        replace(KTHREAD, succeeded=29, failed=1),
    )
    assert found == {
        "61 redirect_by_number host eth0 ENETDOWN": 3,
        "host eth0 eth1 sent": 40,
        "host eth0 eth1 dropped": 2,
        "9 enqueued": 30,
        "9 processed": 29,
        "9 dropped": 6,
    }


@pytest.mark.parametrize(
    ("number", "name"),
    [(-22, "EINVAL"), (-95, "EOPNOTSUPP"), (-11, "EAGAIN"), (-524, "ENOTSUPP"), (-9999, "9999")],
)
def test_names_of_errors(number: int, name: str) -> None:
    assert errno_name(number) == name


def test_a_target_in_another_namespace() -> None:
    away = replace(ETH1, serial=8, inode=INODE + 1)
    snapshot = host("eth0")
    snapshot = replace(
        snapshot,
        interfaces={**snapshot.interfaces, (8, 3): ("away", "eth1")},
        namespaces={**snapshot.namespaces, 8: (INODE + 1, "away")},
    )
    found = CounterReader().update(snapshot, replace(TRANSMIT, target=away, succeeded=1))
    assert found == {"host eth0 away/eth1 sent": 1, "host eth0 away/eth1 dropped": 0}


def test_a_series_begins_at_zero_for_every_scraper() -> None:
    counter_reader = CounterReader(patience=RETENTION)
    readers = counter_reader.totals.readers
    readers.shown("one", counter_reader.totals.reading, counter_reader.now)
    readers.shown("two", counter_reader.totals.reading, counter_reader.now)
    record = replace(ERROR, failed=3)
    key = "61 redirect_by_number host eth0 ENETDOWN"
    assert counter_reader.update(host("eth0"), record) == {key: 0}
    readers.shown("one", counter_reader.totals.reading, counter_reader.now)
    assert counter_reader.update(host("eth0"), record) == {key: 0}, "two has not seen it"
    readers.shown("two", counter_reader.totals.reading, counter_reader.now)
    assert counter_reader.update(host("eth0"), replace(record, failed=4)) == {key: 4}


def test_without_a_scraper_a_series_is_shown_after_a_while() -> None:
    counter_reader = CounterReader(patience=RETENTION)
    counter_reader.update(host("eth0"), replace(ERROR, failed=3))
    (value,) = counter_reader.update(
        host("eth0"), replace(ERROR, failed=3), after=RETENTION
    ).values()
    assert value == 3


def test_a_renamed_interface_takes_nothing_along() -> None:
    counter_reader = CounterReader()
    counter_reader.update(host("eth0"), replace(ERROR, failed=3))
    counter_reader.update(
        host("wan"), replace(ERROR, failed=4)
    )  # before the scan that saw the name
    assert counter_reader.update(host("wan"), replace(ERROR, failed=9)) == {
        "61 redirect_by_number host eth0 ENETDOWN": 4,
        "61 redirect_by_number host wan ENETDOWN": 5,
    }
    assert counter_reader.update(host("wan"), replace(ERROR, failed=10), after=RETENTION) == {
        "61 redirect_by_number host wan ENETDOWN": 6,
    }
    assert counter_reader.deleted == [], "its record is still that of an interface"


def test_an_interface_that_is_gone_stays_for_a_minute_and_continues() -> None:
    counter_reader = CounterReader()
    record = replace(ERROR, failed=3)
    counter_reader.update(host("eth0"), record)
    (value,) = counter_reader.update(host(), record).values()
    assert value == 3
    assert len(counter_reader.update(host(), record, after=RETENTION - 1)) == 1
    assert counter_reader.update(host(), record, after=1) == {}
    assert counter_reader.deleted == [record.key]
    again = replace(ERROR, key=b"new", failed=2, source=replace(ETH0, index=9))
    snapshot = replace(host(), interfaces={(NETNS, 9): ("host", "eth0")})
    assert list(counter_reader.update(snapshot, again).values()) == [5], "no counter decreases"


def test_packets_that_come_before_a_record_is_deleted_are_counted() -> None:
    counter_reader = CounterReader()
    counter_reader.late = 2
    counter_reader.update(host("eth0"), replace(ERROR, failed=3))
    counter_reader.update(host(), replace(ERROR, failed=3))
    assert list(
        counter_reader.update(host(), replace(ERROR, failed=3), after=RETENTION).values()
    ) == [5]


def test_a_program_that_is_gone_keeps_its_name_for_a_minute() -> None:
    counter_reader = CounterReader()
    counter_reader.update(host("eth0"), replace(ERROR, failed=3))
    gone = host("eth0", programs=())
    assert counter_reader.update(gone, replace(ERROR, failed=4)) == {
        "61 redirect_by_number host eth0 ENETDOWN": 4
    }
    assert counter_reader.update(gone, replace(ERROR, failed=4), after=RETENTION) == {}
    assert counter_reader.deleted == [ERROR.key]


def test_a_program_that_was_never_seen_has_the_kernels_name() -> None:
    found = CounterReader().update(host("eth0", programs=()), replace(ERROR, failed=1))
    assert found == {"61 redirect_by_num host eth0 ENETDOWN": 1}


def test_counts_that_begin_again_are_added() -> None:
    counter_reader = CounterReader()
    counter_reader.update(host("eth0"), replace(ERROR, failed=3))
    counter_reader.totals.restart()
    assert list(counter_reader.update(host("eth0"), replace(ERROR, failed=2)).values()) == [5]


def test_a_driver_that_is_not_known_reports_nothing_itself() -> None:
    core = {Outcome.REDIRECT_ERROR, Outcome.CPUMAP, Outcome.DEVMAP_TRANSMIT}
    assert drivers.supported(Mode.NATIVE, "") == core
    assert drivers.supported(Mode.NATIVE, "ena") == core | {Outcome.EXCEPTION}
    assert drivers.supported(Mode.NATIVE, "veth") == set(Outcome)
    assert drivers.supported(Mode.GENERIC, "veth") == core - {Outcome.DEVMAP_TRANSMIT} | {
        Outcome.EXCEPTION
    }
    assert drivers.supported(Mode.OFFLOAD, "nfp") == set()


def test_series_have_the_labels_of_their_metric() -> None:
    """A metric family refuses label values that are too few."""
    from xdpscope.probes.outcomes.metrics import families
    from xdpscope.probes.outcomes.report import OutcomeReport

    packets = [
        (Series(Outcome.EXCEPTION, ("1", "f", "host", "eth0", "tx")), 1),
        (Series(Outcome.TX, ("host", "eth0", "sent")), 2),
    ]
    found = {f.name: [s.labels for s in f.samples] for f in families(OutcomeReport(packets))}
    assert found["xdp_exceptions"][0]["verdict"] == "tx"
    assert found["xdp_tx_packets"][0]["result"] == "sent"
    assert found["xdpscope_lost_events"] == []
