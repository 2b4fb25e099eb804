"""Log lines on standard error: JSON for machines, or text for people."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from xksproxy.config.model import Logging
from xksproxy.telemetry.lines import LineWriter, console_line, json_line
from xksproxy.telemetry.whole_lines import write_first_lines

_MAXIMUM_WAITING_LINES: Final = 10_000
_STANDARD_ERROR: Final = 2


class StderrHandler(logging.Handler):
    """Writes lines to standard error on a thread, so that a slow reader does not delay requests.

    At most 10,000 lines wait. Further lines are dropped, and the number of dropped lines is written when there is room.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writer = LineWriter(_write, _dropped_line, _MAXIMUM_WAITING_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line without waiting."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a line that cannot be formatted must not fail its request
            line = f"a log line of {record.name} could not be formatted"
        self._writer.put(line)

    def flush(self) -> None:
        """Wait until all queued lines are written, at most one second."""
        self._writer.flush()


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON. What is not printable is escaped, so no value can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with the fields of its ``fields`` attribute."""
        return json_line(_fields(record) | _exception(self, record))


class ConsoleFormatter(logging.Formatter):
    """Formats a record as one line of text for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The record with the fields of its ``fields`` attribute."""
        return console_line(_fields(record) | _exception(self, record))


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "message": record.getMessage(),
        "logger": record.name,
        "pid": record.process,
        **getattr(record, "fields", {}),
    }


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    return {"exception": formatter.formatException(record.exc_info)} if record.exc_info else {}


def _write(lines: Sequence[str]) -> None:
    """All processes of the service write to standard error, which may be the pipe of the audit log too."""
    data = "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
    while data:
        _, written = write_first_lines(_STANDARD_ERROR, data)
        data = data[written:]


def _dropped_line(count: int) -> str:
    return json_line({"level": "warning", "message": "log lines dropped", "count": count})


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
