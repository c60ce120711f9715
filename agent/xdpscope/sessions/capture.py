# SPDX-License-Identifier: Apache-2.0
"""``xdpscope capture``: packets in a pcapng file."""

import os
import platform
import signal
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xdpscope import __version__
from xdpscope.errors import XdpscopeError
from xdpscope.libbpf import Drained, PcapngWriter, Record
from xdpscope.sessions import pcapng
from xdpscope.sessions.events import Event, Trigger
from xdpscope.sessions.session import EXIT, Session
from xdpscope.sessions.trace import signalled

STDOUT = "-"

# enum capture_flags of bpf/common/capture.h
_LAYER3 = 4

_IDLE = 0.01  # seconds to sleep when the rings are empty
_FLUSH_INTERVAL = 0.25  # seconds that a packet may stay in the buffer


@dataclass
class _Interface:
    """A capture point on one device, with its block in the file."""

    key: Record
    block: bytes


class Files:
    """The file, or the files of ``--rotate``, that a capture is written to."""

    def __init__(self, path: str, *, rotating: bool = False, keep: int = 0) -> None:
        """Open nothing yet.

        Args:
            path: Of the file; ``-`` stands for standard output.
            rotating: Several files get a number in their names.
            keep: How many to keep; 0 stands for all.
        """
        self._path = path
        self._rotating = rotating
        self._keep = keep
        self._number = 0
        self._written: deque[Path] = deque()
        self._fd = -1

    def next(self) -> int:
        """Close the file before, and open the next one.

        Raises:
            XdpscopeError: it cannot be opened.
        """
        self.close()
        if self._path == STDOUT:
            self._fd = os.dup(sys.stdout.fileno())
            return self._fd
        path = Path(self._path)
        if self._rotating:
            self._number += 1
            path = path.with_name(f"{path.stem}-{self._number:05d}{path.suffix}")
        try:
            # Packets may contain secrets: the file is for its owner alone.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
        except OSError as error:
            raise XdpscopeError(f"cannot write {path}: {error.strerror}") from None
        self._written.append(path)
        while self._keep and len(self._written) > self._keep:
            with suppress(OSError):
                self._written.popleft().unlink()
        return self._fd

    @property
    def name(self) -> str:
        """What is being written, for messages."""
        return "standard output" if self._path == STDOUT else str(self._written[-1])

    def cut(self, size: int) -> None:
        """Cut a file off behind its last whole block; a pipe is left alone."""
        with suppress(OSError):
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.ftruncate(self._fd, size)

    def close(self) -> None:
        """Close the file; again is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Recorder:
    """The flight recorder: how many packets it keeps, and when it writes them."""

    last: int
    event: Event


class Capture:
    """Writes what a session captures."""

    def __init__(
        self,
        session: Session,
        files: Files,
        *,
        count: int = 0,
        rotate_at: int = 0,
        recorder: Recorder | None = None,
    ) -> None:
        """Begin the first file.

        Args:
            session: What is captured.
            files: Where to.
            count: Packets to write; 0 stands for no limit. Entry and exit of a packet are one.
            rotate_at: Bytes after which the next file begins; 0 stands for never.
            recorder: With it, packets are kept in memory until its event.

        Raises:
            XdpscopeError: the file cannot be opened.
            OSError: it cannot be written.
        """
        self._session = session
        self._files = files
        self._interfaces: list[_Interface] = []
        plan = session.tracers.plan
        self._writer = PcapngWriter(
            limit=count, counted_point=EXIT if plan.exit else -1, rotate_at=rotate_at
        )
        self._recorder = recorder
        self._released = False
        if recorder is not None:
            # The packet of the event too, which is one more.
            records = (recorder.last + 1) * (plan.entry + plan.exit)
            self._writer.keep(records, recorder.event.verdict_bits)
        self._trigger = Trigger(recorder.event, time.monotonic()) if recorder is not None else None
        self._started = time.time_ns()
        self._host = platform.node()
        self._begin_file()

    def close(self) -> None:
        """Free the buffer."""
        self._writer.close()

    @property
    def result(self) -> str:
        """Say what was written; entry and exit of a packet are one."""
        if self._recorder is not None and not self._released:
            return f"no event came: no packet is in {self._files.name}"
        return f"{self._writer.packets:,} packets written to {self._files.name}"

    def _begin_file(self) -> None:
        self._writer.open(self._files.next())
        system = f"{platform.system()} {platform.release()}"
        self._writer.put(pcapng.section(f"xdpscope {__version__}", system, [f"host {self._host}"]))
        for each in self._interfaces:
            self._writer.put(each.block)

    def step(self, *, last: bool = False) -> Drained:
        """Write what has come.

        Args:
            last: Nothing more will come: the records of this moment are taken too.

        Raises:
            OSError: the file cannot be written. InterruptedError: a signal came.
        """
        while True:
            drained = self._writer.drain(self._session.tracers.rings, all=last)
            if drained is Drained.UNKNOWN:
                self._add_interface(self._writer.unknown)
            elif drained is Drained.ROTATE:
                self._end_file()
                self._begin_file()
            else:
                return drained

    @property
    def size(self) -> int:
        """Bytes of the current file, with those in the buffer."""
        return self._writer.size

    def flush(self) -> None:
        """Write what is buffered."""
        if self._writer.pending:
            self._writer.flush()

    def has_event(self) -> bool:
        """Return whether a rate or ratio is beyond the limit of the flight recorder."""
        return self._trigger is not None and self._trigger.happened(
            self._writer.verdicts, time.monotonic()
        )

    def release(self) -> None:
        """Write what the flight recorder kept."""
        kept = (self._recorder.last + 1) if self._recorder is not None else 0
        self._writer.packets = min(self._writer.packets, kept)
        self._writer.release()
        self._released = True

    def finish(self) -> None:
        """Write the last records and the statistics; the session has stopped."""
        self.step(last=True)
        self._end_file()

    def abandon(self) -> None:
        """Leave whole blocks only, after the file could not be written."""
        self._files.cut(self._writer.whole)

    def _end_file(self) -> None:
        losses = self._session.tracers.losses()
        now = time.time_ns()
        for number, each in enumerate(self._interfaces):
            key = each.key
            written = self._writer.packets_of(key)
            lost = losses.get((key.target, key.point, key.netns, key.ifindex), 0)
            self._writer.put(
                pcapng.statistics(
                    number,
                    self._started,
                    now,
                    matched=written + lost,
                    lost=lost,
                    written=written,
                )
            )
        while self._writer.pending:
            with suppress(InterruptedError):
                self._writer.flush()

    def _add_interface(self, record: Record) -> None:
        program = self._session.target(record.target).program
        device = self._session.device(record.netns, record.ifindex)
        point = "fexit" if record.point == EXIT else "fentry"
        plan = self._session.tracers.plan
        block = pcapng.interface(
            f"{device.interface}:{program.function}()@{point}",
            pcapng.RAW_IP if record.flags & _LAYER3 else pcapng.ETHERNET,
            plan.snaplen,
            filter=plan.filter.expression if plan.filter else "",
            comments=[
                f"program {program.id}",
                f"tag {program.tag}",
                f"netns {device.netns} ({record.netns})",
                f"ifindex {record.ifindex}",
                f"host {self._host}",
            ],
        )
        self._writer.put(block)
        self._writer.add_interface(record, len(self._interfaces))
        self._interfaces.append(_Interface(record, block))


def run(
    session: Session,
    files: Files,
    *,
    count: int = 0,
    seconds: float = 0,
    rotate_at: int = 0,
    recorder: Recorder | None = None,
    note: Callable[[str], None],
) -> None:
    """Write packets until ``count``, ``seconds``, SIGINT or SIGTERM.

    With a ``recorder``, nothing is written before its event, and the event ends it.

    Raises:
        XdpscopeError: the file cannot be written; it is readable up to its last whole block.
    """
    end = time.monotonic() + seconds if seconds else float("inf")
    capture: Capture | None = None
    numbers = (signal.SIGUSR1,) if recorder is not None else ()
    with (
        files,
        signalled(signal.SIGINT, signal.SIGTERM) as interrupted,
        signalled(*numbers) as asked,
    ):
        try:
            capture = Capture(session, files, count=count, rotate_at=rotate_at, recorder=recorder)
            capture.flush()
            flushed = time.monotonic()
            while not interrupted() and time.monotonic() < end:
                before = capture.size
                with suppress(InterruptedError):
                    drained = capture.step()
                    event = drained is Drained.EVENT or asked() or capture.has_event()
                    if event and recorder is not None:
                        note(f"event: {recorder.event.text}")
                        capture.release()
                        break
                    if drained is Drained.LIMIT:
                        break
                    if time.monotonic() >= flushed + _FLUSH_INTERVAL:
                        capture.flush()
                        flushed = time.monotonic()
                if capture.size == before:
                    time.sleep(_IDLE)
            session.stop()
            capture.finish()
        except OSError as error:
            session.stop()
            if capture is not None:
                capture.abandon()
            raise XdpscopeError(
                f"cannot write {files.name}: {error.strerror}",
                hint="what is written is readable up to the last whole packet",
            ) from None
        finally:
            if capture is not None:
                note(capture.result)
                capture.close()
