"""Log lines on standard error: JSON for machines, or text for people."""

import json
import logging
import os
import queue
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from xksproxy.config.model import Logging

_MAXIMUM_WAITING_LINES: Final = 10_000
_FLUSH_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.005


class StderrHandler(logging.Handler):
    """Writes lines to standard error from a thread, so that whoever reads them slowly holds up no request.

    At most 10,000 lines wait; what comes above that is dropped, counted, and the count is written once there is room.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str | None] = queue.Queue(_MAXIMUM_WAITING_LINES)
        self._dropped = 0
        self._thread_of: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a line over; never wait."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not fail its request
            line = f"a log line of {record.name} could not be formatted"
        if self._thread_of != os.getpid():
            self._start_thread()
        try:
            if self._dropped:
                self._lines.put_nowait(f'{{"level":"warning","message":"log lines dropped","count":{self._dropped}}}')
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait, at most a second, until what was handed over is written."""
        end = time.monotonic() + _FLUSH_SECONDS
        while self._lines.unfinished_tasks and self._thread_of == os.getpid() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _start_thread(self) -> None:
        """A thread of this process: one that was started before a fork stays with the parent."""
        self._thread_of = os.getpid()
        self._lines = queue.Queue(_MAXIMUM_WAITING_LINES)
        threading.Thread(target=self._write, args=(self._lines,), name="log", daemon=True).start()

    @staticmethod
    def _write(lines: "queue.Queue[str | None]") -> None:
        while (line := lines.get()) is not None:
            with suppress(OSError, ValueError):
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()
            lines.task_done()


class JsonFormatter(logging.Formatter):
    """One JSON object a line; every value is escaped, so no field can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with the fields of its ``fields`` attribute."""
        return _json(_fields(record) | _exception(self, record))


class ConsoleFormatter(logging.Formatter):
    """Time, level and message, then ``name=value`` for each field, values in JSON notation."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line for people."""
        fields = _fields(record) | _exception(self, record)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "message"))
        rest = " ".join(f"{name}={_json(value)}" for name, value in fields.items())
        return _one_line(f"{head}  {rest}" if rest else head)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "message": _one_line(record.getMessage()),
        "logger": record.name,
        "pid": record.process,
        **getattr(record, "fields", {}),
    }


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    return {"exception": formatter.formatException(record.exc_info)} if record.exc_info else {}


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        # Bytes of a request that are no text come as lone surrogates; escaped, they keep the line.
        return json.dumps(value, default=str)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def logging_config(settings: Logging) -> dict[str, Any]:
    """The argument of :func:`logging.config.dictConfig` for the ``[logging]`` table."""
    formatter = JsonFormatter if settings.format == "json" else ConsoleFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": formatter}},
        "handlers": {"stderr": {"()": StderrHandler, "formatter": "line"}},
        "root": {"level": settings.level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": settings.level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            "asyncio": {"level": "ERROR"},
        },
    }
