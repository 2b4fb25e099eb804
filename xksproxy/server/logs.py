"""Log lines on standard error: JSON for machines, or text for people."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import msgspec

from xksproxy.config.model import Logging


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
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"level": settings.level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": settings.level.upper(), "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
            "asyncio": {"level": "ERROR"},
        },
    }
