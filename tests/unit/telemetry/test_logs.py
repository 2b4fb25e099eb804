"""Log lines that nobody can forge: one record, one line, whatever its values hold."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.model import Logging
from xksproxy.telemetry.logs import StderrHandler, logging_config

_FORMATS: tuple[Literal["json", "console"], ...] = ("json", "console")

_HOSTILE = [
    "line\nbreak",
    'end\r\n{"level":"error","message":"forged"}',
    '","level":"error","x":"',
    "back\\slash\\",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "nul\0",
    "\x08\x08\x08backspace",
    "vertical\x0b\x0c",
    "separators\x1c\x1d\x1e",
    "a=1 level=error",
]
# U+0085 and U+2028 end lines for many readers, U+009B is the one-character form of ESC [.
_INVISIBLE = ["delete\x7f", "next\x85line", "csi\x9b2J", "line\u2028separator", "para\u2029graph", "right\u202eleft"]
_SURROGATES = ["\ud800", "a\udcffb\nforged", "\udcff\udcfe"]


class _Handler(logging.StreamHandler[io.StringIO]):
    """The standard library's prints a traceback where a record cannot be formatted, with the values as they are."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        self.stream.write(f"lost a line of level {record.levelname}\n")


class _Log:
    """A logger with the formatter of the configuration, writing to a string as it would to standard error."""

    def __init__(self, form: Literal["json", "console"]) -> None:
        formatter = logging_config(Logging(format=form))["formatters"]["line"]["()"]()
        self._stream = io.StringIO()
        handler = _Handler(self._stream)
        handler.setFormatter(formatter)
        self.logger = logging.Logger("xksproxy.test")  # noqa: LOG001 - one that no other test knows
        self.logger.addHandler(handler)

    def written(self) -> str:
        return self._stream.getvalue()


def _raise(text: str) -> None:
    raise ValueError(text)


def _emit(form: Literal["json", "console"], value: str, where: str) -> str:
    """What is written for a record that holds a hostile value somewhere."""
    log = _Log(form)
    match where:
        case "message":
            log.logger.error(value)
        case "argument":
            log.logger.error("a %s b", value)
        case "field":
            log.logger.error("text", extra={"fields": {"value": value}})
        case "nested":
            log.logger.error("text", extra={"fields": {"value": [{value: [value]}]}})
        case "exception":
            try:
                _raise(value)
            except ValueError:
                log.logger.exception("text")
    return log.written()


_PLACES = ["message", "argument", "field", "nested", "exception"]


def test_a_json_line_holds_time_level_message_logger_process_and_fields() -> None:
    log = _Log("json")

    log.logger.warning("hello %s", "world", extra={"fields": {"status": 200, "ms": 1.5, "keystore": "dev", "no": None}})

    facts = json.loads(log.written())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", facts.pop("time"))
    assert facts.pop("pid") > 0
    assert facts == {
        "level": "warning",
        "message": "hello world",
        "logger": "xksproxy.test",
        "status": 200,
        "ms": 1.5,
        "keystore": "dev",
        "no": None,
    }


def test_a_console_line_begins_with_time_level_and_message_and_names_each_field() -> None:
    log = _Log("console")

    log.logger.warning("hello %s", "world", extra={"fields": {"status": 200, "keystore": "dev"}})

    line = log.written()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 warning hello world  logger=", line)
    assert line.endswith(' status=200 keystore="dev"\n')


@pytest.mark.parametrize("form", _FORMATS)
def test_times_are_in_utc_wherever_the_machine_stands(form: Literal["json", "console"]) -> None:
    log = _Log(form)
    record = logging.LogRecord("x", logging.INFO, "", 0, "text", (), None)
    record.created = 1715774400.25

    log.logger.handle(record)

    assert "2024-05-15T12:00:00.250+00:00" in log.written()


@pytest.mark.parametrize("form", _FORMATS)
@pytest.mark.parametrize("where", _PLACES)
def test_no_value_forges_a_line_or_reaches_the_terminal_unescaped(form: Literal["json", "console"], where: str) -> None:
    for value in (*_HOSTILE, *_INVISIBLE, *_SURROGATES):
        written = _emit(form, value, where)

        assert written.endswith("\n"), ascii(value)
        assert len(written.splitlines()) == 1, ascii(value)
        assert written[:-1].isprintable(), ascii(value)
        if form == "json":
            facts = json.loads(written)
            assert (facts["level"], facts["logger"]) == ("error", "xksproxy.test")
            assert where != "nested" or facts["value"] == [{value: [value]}]
            assert where != "exception" or value in _SURROGATES or value.strip() in facts["exception"]
        else:
            assert re.match(r"\S+ error ", written), ascii(value)


def test_a_traceback_is_one_field_of_the_line() -> None:
    facts = json.loads(_emit("json", "what happened", "exception"))

    assert facts["exception"].startswith("Traceback (most recent call last):\n")
    assert facts["exception"].endswith("ValueError: what happened")


@given(st.text(), st.text())
def test_any_text_can_be_read_back_from_its_json_line(message: str, value: str) -> None:
    log = _Log("json")

    log.logger.error("%s", message, extra={"fields": {"value": value}})

    assert log.written().count("\n") == 1
    facts = json.loads(log.written())
    assert facts["value"] == value
    assert facts["message"] == message


_PROGRAM = """
import logging, logging.config, sys
from xksproxy.config.model import Logging
from xksproxy.telemetry.logs import StderrHandler, logging_config

logging.config.dictConfig(logging_config(Logging(level=sys.argv[1], format=sys.argv[2])))
for name in ("xksproxy.request", "gunicorn.error", "gunicorn.access", "asyncio"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "text", extra={"fields": {"value": "a\\nb"}})
"""


def _run(level: str, form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, level, form], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_lines_go_to_standard_error_once_from_the_level_that_is_set() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in _run("warning", "json")]

    assert [(line["logger"], line["level"]) for line in lines] == [
        ("xksproxy.request", "warning"),
        ("xksproxy.request", "error"),
        ("gunicorn.error", "warning"),
        ("gunicorn.error", "error"),
        ("asyncio", "error"),
    ]


def test_the_level_debug_lets_everything_through_but_the_access_log_that_we_write_ourselves() -> None:
    lines = [line.split(" ", 3) for line in _run("debug", "console")]

    assert [level for _, level, _, _ in lines] == ["debug", "info", "warning", "error"] * 2 + ["error"]
    assert not any("gunicorn.access" in rest for _, _, _, rest in lines)


def test_a_stalled_reader_delays_no_caller_and_dropped_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("xksproxy.telemetry.logs._STANDARD_ERROR", writer)
    handler = StderrHandler()
    for number in range(12_000):  # a pipe holds 64 KiB, 1,000 of these lines
        handler.emit(logging.LogRecord("test", logging.INFO, "", 0, f"line {number} {'x' * 60}", None, None))
    written = bytearray()

    def read() -> None:
        while block := os.read(reader, 65_536):
            written.extend(block)

    reading = threading.Thread(target=read)
    reading.start()
    handler._writer.flush(60)
    handler.emit(logging.LogRecord("test", logging.INFO, "", 0, "the last", None, None))
    handler._writer.flush(60)
    os.close(writer)
    reading.join()
    os.close(reader)

    lines = written.decode().splitlines()
    assert lines[-1] == "the last"
    dropped = json.loads(lines[-2])["count"]
    assert len(lines) - 2 + dropped == 12_000
    assert dropped >= 499
