"""The audit log as a witness: its newest line about the state directory shows that another one was put in its place."""

import glob
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from xksproxy.config.model import Config
from xksproxy.config.regular_file import is_regular_file
from xksproxy.decoding import convert
from xksproxy.state.doubt import HOW_TO_SETTLE, mark_doubt, read_doubt
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import StateNumber, manifest_problem
from xksproxy.state.witness import Contradiction, Witness, contradiction

_log: Final = logging.getLogger(__name__)
MESSAGE: Final = "state"
"""The ``message`` of a line about the state directory."""

_COUNTS_SECONDS: Final = 60.0
"""How often counts of encryptions raise the number; the other changes raise it at once."""

_MOST_BYTES: Final = 256 * 1024 * 1024
"""So much of the end of the log is searched. A busy proxy writes a line about its state more often."""

_CHUNK_BYTES: Final = 1024 * 1024
_LONGEST_LINE_BYTES: Final = 64 * 1024
_CONSOLE_LINE: Final = re.compile(rb"(?P<time>\S+) state  (?P<fields>.*)")
_CONSOLE_FIELD: Final = re.compile(rb'(?P<name>state_\w+)=(?P<value>"(?:[^"\\]|\\.)*"|[0-9.]+)')
_MARKS: Final = (b'"message":"state"', b" state  pid=")


def witness_file(config: Config) -> Path | None:
    """The file of the audit log, if it is the witness of the state directory."""
    audit = config.audit
    is_witness = audit.enabled and audit.file is not None and config.state.witness != "none"
    return Path(audit.file) if is_witness and audit.file is not None else None


def doubt_of(state_directory: Path, log: Path | None) -> str:
    """Why a state directory is in doubt; empty if it is not. ``log`` is its witness."""
    if marked := read_doubt(state_directory):
        return marked
    found = _contradiction(state_directory, log)
    return f"{found.reason}; {HOW_TO_SETTLE}" if found else ""


def note_doubt(config: Config) -> None:
    """Mark the state directory of a proxy that starts, if its witness knows of a newer one, or its manifest was lost.

    Raises:
        StateUnusable: the mark cannot be written.
    """
    directory, log = Path(config.state.directory), witness_file(config)
    if not read_doubt(directory) and (found := _contradiction(directory, log)):
        mark_doubt(directory, *found)
    if reason := read_doubt(directory):
        _log.error("state directory in doubt", extra={"fields": {"reason": reason}})


class WitnessLines:
    """Makes the lines: one at the start, one after each change of state, and once a minute while keys encrypt."""

    def __init__(
        self,
        state_directory: Path,
        changes: Callable[[], object],
        unread: Callable[[], bool] = lambda: False,
        number: StateNumber | None = None,
    ) -> None:
        """``changes`` returns another value after a change of blocks, key versions or retired credentials.

        ``unread`` says whether the number must not be raised, because a witness was not compared with it, or because
        the directory is another one than before. ``number`` is that of the directory.
        """
        self._unread = unread
        self._directory = state_directory
        self._number = number or StateNumber(state_directory)
        self._changes = changes
        self._last: object = None
        self._counted: tuple[float, int] = -_COUNTS_SECONDS, 0
        """When the counts were looked at last, and the time of their last change."""
        self._problem = ""
        self._newest: Witness | None = None

    @property
    def newest(self) -> Witness | None:
        """What the last line said; None if there was none."""
        return self._newest

    def take(self) -> Mapping[str, Any] | None:
        """Raise the number if something has changed, and return the fields of the line. It waits for the disk."""
        if self._unread():
            return None
        changes = (self._changes(),)
        if not (changes != self._last or self._has_counted()) or read_doubt(self._directory):
            return None
        try:
            number, record = self._number.advance()
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("state cannot be numbered", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return None
        self._last, self._problem = changes, ""
        self._newest = Witness(record.id, number, record.at, str(self._directory.resolve()))
        return msgspec.to_builtins(self._newest)  # type: ignore[no-any-return]

    def _has_counted(self) -> bool:
        """Whether a count of encryptions was written since the last look, a minute ago or more."""
        now = time.monotonic()
        looked_at, before = self._counted
        if now - looked_at < _COUNTS_SECONDS:
            return False
        try:
            changed = (self._directory / "usage").stat().st_mtime_ns
        except OSError:
            changed = 0
        self._counted = now, changed
        return changed != before


def _contradiction(state_directory: Path, log: Path | None) -> Contradiction:
    """Why a directory is in doubt, by itself or by what its witness knows."""
    if (reason := manifest_problem(state_directory)) or log is None:
        return Contradiction(reason)
    path = str(state_directory.resolve())
    return contradiction(state_directory, lambda state_id: _newest(log, path, state_id), f"the audit log {log}")


def _newest(log: Path, path: str, state_id: str) -> Witness | None:
    """The newest line about the directory of this id, wherever it was, or at this path. Others may share the log."""
    return next((line for line in _witnesses(log) if line.state_id == state_id or line.state_directory == path), None)


def _witnesses(log: Path) -> Iterator[Witness]:
    """The lines about state directories in a log and the files to which it was rotated, the newest first."""
    budget = _MOST_BYTES
    for path in _newest_first(log):
        try:
            for line in _lines_backwards(path, budget):
                budget -= len(line) + 1
                if any(mark in line for mark in _MARKS) and (found := _parsed(line)) is not None:
                    yield found
        except OSError as error:
            _log.warning("audit log is no witness of the state", extra={"fields": {"reason": str(error)}})
        if budget <= 0:
            return


def _newest_first(log: Path) -> list[Path]:
    """The log, then the files to which it was rotated and that are not compressed."""
    rotated = [path for path in log.parent.glob(f"{glob.escape(log.name)}[.-]*") if is_regular_file(str(path))]
    rotated.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [*([log] if is_regular_file(str(log)) else ()), *rotated]


def _lines_backwards(path: Path, most_bytes: int) -> Iterator[bytes]:
    """The lines of the last ``most_bytes`` of a file, the last one first. Of a line that is too long, only a part."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        start, rest = max(0, end - most_bytes), b""
        while end > start:
            begin = max(start, end - _CHUNK_BYTES)
            file.seek(begin)
            *lines, rest = reversed((file.read(end - begin) + rest).split(b"\n"))
            yield from lines
            if len(rest) > _LONGEST_LINE_BYTES:  # no line of the log, but zeros after a power failure
                rest = b""
            end = begin
        yield rest


def _parsed(line: bytes) -> Witness | None:
    """What a line in one of the two formats says; None if it is not about a state directory."""
    try:
        document = json.loads(line)
        fields = document if document.get("message") == MESSAGE else {}
    except (ValueError, AttributeError, RecursionError):
        found = _CONSOLE_LINE.fullmatch(line)
        pairs = _CONSOLE_FIELD.findall(found["fields"]) if found else ()
        fields = {name.decode(): json.loads(value) for name, value in pairs}
    try:
        return convert(fields, Witness)
    except msgspec.MsgspecError:
        return None
