"""The files by which workers share their metrics. A worker that cannot write its file serves nevertheless."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.telemetry.definitions import FAMILIES
from xksproxy.telemetry.published_file import PublishedFile, Unreadable, read_published
from xksproxy.telemetry.series import Counters, Gauges, Histograms, exemplars_of
from xksproxy.telemetry.totals import Published, Totals, values_of

_log: Final = logging.getLogger(__name__)
_CAPACITY: Final = 384 * 1024
"""Enough for 500 series of Decrypts with the longest names, and for the other series of 50 key stores."""

_GAUGE_CAPACITY: Final = 48 * 1024
_UNCHANGED_SECONDS: Final = 10.0
_PAUSE_FACTOR: Final = 50.0
_LONGEST_PAUSE_SECONDS: Final = 10.0

_MOST_INCLUDED: Final = 1000
"""More workers than can end while a reader reads the files."""
_ENDED: Final = "metrics-ended"


class WorkerMetrics:
    """The files of this worker process: one for what lasts, counters and histograms, and one for gauges.

    What lasts may be much, and is written only if it has changed; gauges are few, and say that the worker is alive.
    """

    def __init__(
        self,
        directory: Path,
        metrics: Iterable[Counters | Gauges | Histograms],
        with_exemplars: Histograms | None = None,
    ) -> None:
        """``with_exemplars`` is the histogram whose exemplars are published too."""
        metrics = tuple(metrics)
        self._lasting = tuple(metric for metric in metrics if metric.family.kind.outlives_process)
        self._gauges = tuple(metric for metric in metrics if not metric.family.kind.outlives_process)
        self._with_exemplars = with_exemplars
        self._id = os.urandom(8).hex()
        self._lasting_file = PublishedFile(_path(directory, os.getpid()), _CAPACITY)
        self._gauge_file = PublishedFile(_gauge_path(directory, os.getpid()), _GAUGE_CAPACITY)
        self._written = -1
        self._next = 0.0
        self._writing = threading.Lock()
        self.problem = ""
        """Why the last values could not be written; empty if they could."""

    def current(self) -> Published:
        """The present values."""
        return self._published((*self._lasting, *self._gauges))

    def publish(self, counted: int | None = None) -> None:
        """Write the present values; call it on a thread.

        ``counted`` is the number of requests counted: while it stays, what lasts is written every ten seconds. Writing
        it takes at most a fiftieth of the time. Without ``counted`` it is written now.
        """
        with self._writing:
            try:
                self._gauge_file.write(self._published(self._gauges).encode())
                if counted is None or self._is_due(counted):
                    self._write_lasting()
                    self._written = -1 if counted is None else counted
            except OSError as error:
                self.problem = error.strerror or str(error)
            else:
                self.problem = ""

    def _is_due(self, counted: int) -> bool:
        if not self._lasting_file.in_place:
            return True
        left = self._next - time.monotonic()
        return left <= 0 if counted != self._written else left <= -_UNCHANGED_SECONDS

    def _write_lasting(self) -> None:
        begun = time.monotonic()
        self._lasting_file.write(self._published(self._lasting).encode())
        ended = time.monotonic()
        self._next = ended + min(_LONGEST_PAUSE_SECONDS, _PAUSE_FACTOR * (ended - begun))

    def _published(self, metrics: Iterable[Counters | Gauges | Histograms]) -> Published:
        exemplars = (
            list(exemplars_of(self._with_exemplars))
            if self._with_exemplars is not None and self._with_exemplars in metrics
            else []
        )
        return Published(self._id, time.monotonic(), {}, exemplars, more=values_of(metrics))


class EndedWorkers:
    """The counts of workers that have ended, in one file. Belongs to the master process.

    A worker's file is removed only after its counts are in that file, which names the workers that it includes. So a
    reader that reads the files of workers first counts each worker exactly once.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = PublishedFile(directory / _ENDED, _CAPACITY)
        self._totals = Totals(FAMILIES)
        self._included: deque[str] = deque(maxlen=_MOST_INCLUDED)
        self._added: list[Path] = []
        """Files whose counts are in the totals, to be removed once these are written."""

    def prepare(self) -> None:
        """Take the space of the file; call it before the first worker starts."""
        self._write()

    def add(self, pid: int) -> None:
        """Take over the counts of a worker that has ended."""
        with suppress(OSError):
            _gauge_path(self._directory, pid).unlink()
        path = _path(self._directory, pid)
        if path not in self._added and (published := _read(path)) is not None:
            self._totals.add_lasting(published)
            self._included.append(published.id)
            self._added.append(path)
        self.retry()

    def retry(self) -> None:
        """Write what could not be written before; call it once a second."""
        if (self._added or not self._file.in_place) and self._write():
            for path in self._added:
                with suppress(OSError):
                    path.unlink()
            self._added.clear()

    def _write(self) -> bool:
        included = tuple(self._included)
        published = Published("", time.monotonic(), {}, included=included, more=self._totals.families())
        try:
            self._file.write(published.encode())
        except OSError:
            return False
        return True


def read_totals(directory: Path, own: Published) -> Totals:
    """The values of all workers together. ``own`` are those of this worker, whose file is not read.

    A file that cannot be read is renamed, and named in the log once; the rest counts.
    """
    workers = [read for path in directory.glob("*-*.worker") if (read := _read(path)) is not None]
    ended = _read(directory / _ENDED)
    totals = Totals(FAMILIES)
    if ended is not None:
        totals.add_lasting(ended)
    included = {own.id, *(ended.included if ended is not None else ())}
    for published in [own, *(worker for worker in workers if worker.id not in included)]:
        totals.add(published)
    return totals


def _path(directory: Path, pid: int) -> Path:
    return directory / f"metrics-{pid}.worker"


def _gauge_path(directory: Path, pid: int) -> Path:
    return directory / f"gauges-{pid}.worker"


def _read(path: Path) -> Published | None:
    """What a file holds. One that is damaged is put aside."""
    try:
        return Published.decode(read_published(path))
    except FileNotFoundError:
        return None
    except (OSError, Unreadable, msgspec.MsgspecError) as error:
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.unreadable"))
            _log.warning("metrics file set aside", extra={"fields": {"file": str(path), "reason": str(error)}})
        return None
