"""Lines of a log: made so that no field can forge one, and written so that nobody waits for the reader."""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

_FLUSH_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.005
_LONGEST_BATCH: Final = 1000


def json_line(fields: Any) -> str:
    """A value as JSON on one line; bytes of a request that are no text come as lone surrogates, and are escaped."""
    try:
        return msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:
        return json.dumps(fields, default=str)


def console_line(fields: Mapping[str, Any]) -> str:
    """Time, level and message, then ``name=value`` for each other field, values in JSON notation."""
    head = " ".join(str(fields[name]) for name in ("time", "level", "message") if name in fields)
    rest = " ".join(
        f"{name}={json_line(value)}" for name, value in fields.items() if name not in ("time", "level", "message")
    )
    return one_line(f"{head}  {rest}" if rest else head)


def one_line(text: str) -> str:
    """Text without line ends or anything else that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


class LineWriter:
    """Hands lines to ``write`` on a thread, in batches; what comes above ``maximum`` waiting lines is dropped.

    ``told`` makes the line that says how many were dropped. The thread belongs to the process that first puts a line:
    one that was started before a fork stays with the parent.
    """

    def __init__(self, write: Callable[[Sequence[Any]], None], told: Callable[[int], Any], maximum: int) -> None:
        self._write = write
        self._told = told
        self._maximum = maximum
        self._lines: queue.Queue[Any] = queue.Queue(maximum)
        self._process: int | None = None
        self._dropped = 0
        self.dropped_in_all = 0

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self._lines.full()

    def put(self, line: Any) -> None:
        """Hand a line over; never wait."""
        if self._process != os.getpid():
            self._start_thread()
        try:
            if self._dropped:
                self._lines.put_nowait(self._told(self._dropped))
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1
            self.dropped_in_all += 1

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait, for at most so many seconds, until what was handed over is written."""
        end = time.monotonic() + seconds
        while self._lines.unfinished_tasks and self._process == os.getpid() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _start_thread(self) -> None:
        self._process = os.getpid()
        self._lines = queue.Queue(self._maximum)
        threading.Thread(target=self._run, args=(self._lines,), name="log", daemon=True).start()

    def _run(self, lines: "queue.Queue[Any]") -> None:
        while True:
            batch = [lines.get()]
            with suppress(queue.Empty):
                while len(batch) < _LONGEST_BATCH:
                    batch.append(lines.get_nowait())
            with suppress(Exception):
                self._write(batch)
            for _ in batch:
                lines.task_done()
