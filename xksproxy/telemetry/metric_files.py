"""The files by which workers share their metrics. A worker that cannot write its file serves nevertheless."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.telemetry.definitions import FAMILIES
from xksproxy.telemetry.published_file import PublishedFile, Unreadable, read_published
from xksproxy.telemetry.series import Counters, Gauges, Histograms, examples_of
from xksproxy.telemetry.totals import Published, Totals, values_of

_log: Final = logging.getLogger(__name__)
_CAPACITY: Final = 384 * 1024
"""Enough for 500 series of Decrypts with the longest names, and for the other series of 50 key stores."""

FILE_BYTES: Final = 2 * _CAPACITY
"""About what the file of one process takes of the runtime directory."""

_MOST_INCLUDED: Final = 1000
"""More workers than can end while a reader reads the files."""
_ENDED: Final = "metrics-ended"


class WorkerMetrics:
    """The file of this worker process."""

    def __init__(
        self,
        directory: Path,
        metrics: Iterable[Counters | Gauges | Histograms],
        with_examples: Histograms | None = None,
    ) -> None:
        """``with_examples`` is the histogram whose examples are published too."""
        self._metrics = tuple(metrics)
        self._with_examples = with_examples
        self._id = os.urandom(8).hex()
        self._file = PublishedFile(_path(directory, os.getpid()), _CAPACITY)
        self.problem = ""
        """Why the last values could not be written; empty if they could."""

    def current(self) -> Published:
        """The present values."""
        examples = [] if self._with_examples is None else list(examples_of(self._with_examples))
        return Published(self._id, time.monotonic(), values_of(self._metrics), examples)

    def publish(self) -> None:
        """Write the present values."""
        try:
            self._file.write(msgspec.json.encode(self.current()))
        except OSError as error:
            self.problem = error.strerror or str(error)
        else:
            self.problem = ""


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
        published = Published("", time.monotonic(), self._totals.families(), included=tuple(self._included))
        try:
            self._file.write(msgspec.json.encode(published))
        except OSError:
            return False
        return True


def read_totals(directory: Path, own: Published) -> Totals:
    """The values of all workers together. ``own`` are those of this worker, whose file is not read.

    A file that cannot be read is renamed, and named in the log once; the rest counts.
    """
    workers = [read for path in directory.glob("metrics-*.worker") if (read := _read(path)) is not None]
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


def _read(path: Path) -> Published | None:
    """What a file holds. One that is damaged is put aside."""
    try:
        return decode_json(read_published(path), Published)
    except FileNotFoundError:
        return None
    except (OSError, Unreadable, msgspec.MsgspecError) as error:
        with suppress(OSError):
            path.rename(path.with_name(f"{path.name}.unreadable"))
            _log.warning("metrics file set aside", extra={"fields": {"file": str(path), "reason": str(error)}})
        return None
