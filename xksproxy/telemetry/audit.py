"""The audit log: one line for each request, on standard output or in a file."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from xksproxy.config.model import Audit
from xksproxy.config.secret import Secret
from xksproxy.telemetry.audit_sink import AuditSink
from xksproxy.telemetry.awaited_lines import AwaitedLines
from xksproxy.telemetry.chain import CHECKPOINT, Chain
from xksproxy.telemetry.lines import LineWriter, console_line, json_line

_log: Final = logging.getLogger(__name__)
_MAXIMUM_WAITING_LINES: Final = 10_000
_STALLED_SECONDS: Final = 5.0
"""A write that takes longer counts as a failure: a full pipe, or a network disk that does not answer."""

_CLOSE_SECONDS: Final = 2.0


class AuditLog:
    """Writes audit lines on a thread, so that a slow disk or reader does not delay requests.

    At most 10,000 lines wait. Further lines are dropped, and the number of dropped lines is written when there is room.
    If ``when_full`` is ``refuse``, :attr:`refuses` asks the server to refuse requests that cannot be recorded. With
    ``sync``, each write is synced, lines that come meanwhile are the next write, and :meth:`write_to_disk` waits.
    """

    def __init__(self, settings: Audit, key: Secret | None) -> None:
        """``key`` is the key of the HMAC chain. If it is None, lines are not chained."""
        self._settings = settings
        self._chain = Chain(key) if key is not None else None
        file = None if settings.file is None else Path(settings.file)
        self._sink = AuditSink(file, syncs_each_write=self.syncs)
        gather = {"gather_seconds": 0.0} if self.syncs else {}
        self._writer = LineWriter(self._write, _dropped, _MAXIMUM_WAITING_LINES, **gather)
        self._awaited = AwaitedLines()
        self._checkpointed_at = time.monotonic()
        self._format: Callable[[Mapping[str, Any]], str] = (
            self._chain.next_line if self._chain else console_line if settings.format == "console" else json_line
        )

    @property
    def syncs(self) -> bool:
        """Whether an answer has to wait until its line is on disk."""
        return self._settings.sync and self._settings.enabled

    @property
    def refuses(self) -> bool:
        """Whether requests must be refused, because they cannot be recorded or no line was written yet."""
        return self._settings.when_full == "refuse" and self._settings.enabled and not self.works

    @property
    def works(self) -> bool:
        """Whether lines are written: the first one was, the last try did not fail, and there is room for more."""
        return self._sink.has_written and not self.problem

    @property
    def problem(self) -> str:
        """Why lines are not written; empty if they are, or if none was written yet."""
        if self._sink.broken:
            return f"the audit log cannot be written: {self._sink.reason}"
        if self._sink.stuck_seconds >= _STALLED_SECONDS:
            return f"the audit log cannot be written: nothing was accepted for {self._sink.stuck_seconds:.0f} s"
        return "the audit log is written too slowly: the queue is full" if self._writer.full else ""

    @property
    def stop_reason(self) -> str:
        """Why the service has to stop, as ``stop_after_s`` says; empty if it may go on."""
        limit, seconds = self._settings.stop_after_s, self._sink.stuck_seconds
        if limit is None or seconds < limit:
            return ""
        why = f": {self._sink.reason}" if self._sink.broken else ""
        return f"no audit line could be written for {seconds:.0f} s, and audit.stop_after_s is {limit:g}{why}"

    @property
    def full(self) -> bool:
        """Whether the next line would be dropped."""
        return self._writer.full

    @property
    def written(self) -> int:
        """The number of lines that are written."""
        return self._writer.written

    @property
    def dropped(self) -> int:
        """The number of lines that were dropped because too many lines waited."""
        return self._writer.dropped_in_all

    def write(self, message: str, fields: Callable[[], Mapping[str, Any]], at: float | None = None) -> int:
        """Queue a line without waiting. Returns the number of written lines at which this line is written.

        ``at`` is the time of the event in seconds since 1970, by default now. The writing thread calls ``fields``.
        """
        if self._settings.enabled:
            self._writer.put(_Event(time.time() if at is None else at, message, fields))
        return self._writer.queued

    async def write_to_disk(self, message: str, fields: Callable[[], Mapping[str, Any]], seconds: float) -> bool:
        """Queue a line, and wait at most ``seconds`` until it outlives a power failure. Returns whether it does.

        If it does not, it may be written nevertheless, or later.
        """
        if self._writer.full:
            self.write(message, fields)  # which counts it as dropped
            return False
        result = self._awaited.expect(self._writer.next_number)
        self.write(message, fields)
        try:
            return await asyncio.wait_for(result, seconds)
        except TimeoutError:
            return False

    def checkpoint_if_due(self) -> None:
        """Write a checkpoint every ``checkpoint_interval_s`` seconds. Call it once a second."""
        now = time.monotonic()
        if self._chain and now - self._checkpointed_at >= self._settings.checkpoint_interval_s:
            self._checkpointed_at = now
            self.write(CHECKPOINT, dict)

    def sync(self) -> None:
        """Make what was written outlive a power failure, if not each write does.

        It waits for the disk: call it on a thread, once a second.
        """
        self._sink.sync()

    def close(self) -> None:
        """End the chain with a checkpoint, wait at most 2 s until all lines are written, and sync them.

        Lines that are not written by then are lost, and the log says how many they are.
        """
        if self._chain:
            self.write(CHECKPOINT, lambda: {"end": True})
        self._writer.flush(_CLOSE_SECONDS)
        if lost := self._writer.waiting:
            _log.error("audit lines lost", extra={"fields": {"count": lost, "reason": self.problem or "too slow"}})
        self._sink.sync()

    def _write(self, events: Sequence["_Event"]) -> None:
        last, on_disk = self._writer.written + len(events), False
        try:
            on_disk = self._sink.write("".join(f"{self._format(event.line())}\n" for event in events).encode())
        finally:
            self._awaited.report(last, on_disk=on_disk)
        self._sink.sync_until_it_succeeds()


class _Event(NamedTuple):
    """The data of a line. The writing thread makes the line, because this takes too long for a request."""

    at: float
    """Seconds since 1970."""

    message: str
    fields: Callable[[], Mapping[str, Any]]

    def line(self) -> dict[str, Any]:
        """The fields of the line, in their order."""
        second, rest = divmod(self.at, 1)
        return {
            "time": f"{_second(second)}.{int(1000 * rest):03}+00:00",
            "message": self.message,
            "pid": os.getpid(),
            **self.fields(),
        }


@lru_cache(maxsize=16)  # many lines are of the same second
def _second(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}"


def _dropped(count: int) -> _Event:
    return _Event(time.time(), "audit lines dropped", lambda: {"count": count})
