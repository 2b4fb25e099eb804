"""Log lines: escaped so that no field can forge a line, and written on a thread so that no request waits."""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

_FLUSH_SECONDS: Final = 1.0
_GATHER_SECONDS: Final = 0.01
_POLL_SECONDS: Final = 0.005
_LONGEST_BATCH: Final = 1000
_DEL: Final = b"\x7f"


def json_line(fields: Any) -> str:
    """Format a value as JSON on one line that is safe to show in a terminal.

    Every character in a string that is not printable is escaped (see :func:`escape`). A JSON parser returns the same
    value. Bytes of a request that are not text are lone surrogates, and are escaped too.
    """
    try:
        encoded = msgspec.json.encode(fields)
    except UnicodeEncodeError:
        return json.dumps(fields, default=str)
    text = encoded.decode()
    # JSON has escaped U+0000 to U+001F, so of ASCII only DEL is left.
    return text if text.isascii() and _DEL not in encoded else escape(text)


def console_line(fields: Mapping[str, Any]) -> str:
    """Time, level and message, then ``name=value`` for each other field, values in JSON notation."""
    head = " ".join(str(fields[name]) for name in ("time", "level", "message") if name in fields)
    rest = " ".join(
        f"{name}={json_line(value)}" for name, value in fields.items() if name not in ("time", "level", "message")
    )
    return escape(f"{head}  {rest}" if rest else head)


def escape(text: str) -> str:
    r"""Replace each character that is not printable (:meth:`str.isprintable`) by ``\uXXXX``.

    These are the control characters C0 and C1, the line and paragraph separators, bidirectional overrides and isolates,
    other invisible characters, unassigned characters and lone surrogates. A character above U+FFFF is written as two
    escapes, as in JSON.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True))


class LineWriter:
    """Calls ``write`` on a thread, with batches of lines. If ``maximum`` lines wait, further lines are dropped.

    The thread collects lines for ``gather_seconds`` before it writes them. If it woke up for each line, it would
    interrupt requests as often. ``report_dropped`` makes the line that reports how many lines were dropped. A process
    starts the thread with its first line, because a fork does not copy threads.
    """

    def __init__(
        self,
        write: Callable[[Sequence[Any]], None],
        report_dropped: Callable[[int], Any],
        maximum: int,
        gather_seconds: float = _GATHER_SECONDS,
    ) -> None:
        self._write = write
        self._report_dropped = report_dropped
        self._maximum = maximum
        self._gather_seconds = gather_seconds
        self._lines: deque[Any] = deque()
        self._gathering = threading.Event()
        """Set after the first line of a batch, so that only this line wakes the thread."""
        self._process: int | None = None
        self._queued = 0
        self._written = 0
        self._dropped = 0
        self.dropped_in_all = 0

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self.waiting + bool(self._dropped) >= self._maximum

    @property
    def queued(self) -> int:
        """The number of lines that were queued in this process."""
        return self._queued

    @property
    def next_number(self) -> int:
        """The number of lines that are queued once the next line is, with a line that reports dropped ones."""
        return self._queued + 1 + bool(self._dropped)

    @property
    def written(self) -> int:
        """The number of these lines that are written."""
        return self._written

    @property
    def waiting(self) -> int:
        """The number of lines that are not written yet, including the current batch."""
        return self._queued - self._written

    def put(self, line: Any) -> None:
        """Queue a line without waiting."""
        if self._process != os.getpid():
            self._start_thread()
        if self.full:
            self._dropped += 1
            self.dropped_in_all += 1
            return
        if self._dropped:
            self._append(self._report_dropped(self._dropped))
            self._dropped = 0
        self._append(line)
        if not self._gathering.is_set():
            self._gathering.set()

    def flush(self, seconds: float = _FLUSH_SECONDS) -> None:
        """Wait until all queued lines are written, at most ``seconds``."""
        end = time.monotonic() + seconds
        while self.waiting and self._process == os.getpid() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _append(self, line: Any) -> None:
        self._lines.append(line)
        self._queued += 1

    def _start_thread(self) -> None:
        self._process = os.getpid()
        self._lines, self._gathering = deque(), threading.Event()
        self._queued = self._written = 0
        threading.Thread(target=self._run, args=(self._lines, self._gathering), name="log", daemon=True).start()

    def _run(self, lines: "deque[Any]", gathering: threading.Event) -> None:
        while True:
            gathering.wait()
            if self._gather_seconds:
                time.sleep(self._gather_seconds)
            gathering.clear()
            while lines:
                batch = [lines.popleft() for _ in range(min(len(lines), _LONGEST_BATCH))]
                with suppress(Exception):
                    self._write(batch)
                self._written += len(batch)
