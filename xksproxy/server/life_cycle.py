"""The lines of the audit log about the life cycle of the service, which are not about requests.

Events of commands and of the master come through :class:`~xksproxy.state.audit_spool.AuditSpool`.
"""

import asyncio
import logging
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from xksproxy import __version__
from xksproxy.hsm.instance.instance import Instance
from xksproxy.state.audit_spool import AuditEntry, AuditSpool, actor
from xksproxy.state.state_file import StateUnusable
from xksproxy.telemetry.audit import AuditLog

_log: Final = logging.getLogger(__name__)
_UNREADABLE: Final = "event unreadable"


class LifeCycle:
    """Writes the events to the audit log of this worker. Belongs to its event loop."""

    def __init__(self, audit: AuditLog, state_directory: Path) -> None:
        self._audit = audit
        self._spool = AuditSpool(state_directory)
        self._handed_over: dict[str, int] = {}
        """Events that were handed to the audit log, and how many lines it must have written to have written them."""
        self._problem = ""
        self._seen_in_service: dict[str, int] = {}
        self._serving: dict[str, bool] = {}

    def begin(self) -> None:
        """Write that this worker starts. It is the first line of its chain."""
        self._write("worker started", {"version": __version__})

    async def follow(self) -> None:
        """Write the events that wait, unless another worker does. An event that cannot be read has a line too."""
        try:
            waiting = await asyncio.to_thread(self._look)
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("events for the audit log cannot be read", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return
        self._problem = ""
        for name, entry in waiting.items():
            if self._audit.full:
                return
            found = entry or AuditEntry(0.0, _UNREADABLE, {})
            fields = {**found.fields, "event": name.partition(".")[0]}
            self._handed_over[name] = self._audit.write(found.message, partial(dict, fields), at=found.at or None)

    def _look(self) -> dict[str, AuditEntry | None]:
        """Remove the events whose lines are written, and return those that were not handed over."""
        if not self._spool.become_writer():
            return {}
        self._forget_written()
        return {name: entry for name, entry in self._spool.entries().items() if name not in self._handed_over}

    def close(self) -> None:
        """Forget what is written, at the end of the worker, after the audit log was closed."""
        with suppress(StateUnusable):  # the next writer writes it again, with the same id
            self._forget_written()

    def _forget_written(self) -> None:
        done = [name for name, mark in list(self._handed_over.items()) if self._audit.written >= mark]
        self._spool.remove(done)
        for name in done:
            del self._handed_over[name]

    def follow_hsm(self, instance: Instance) -> None:
        """Write that an HSM came into service in this worker, or went out of it, since the last call."""
        before, serving = self._serving.get(instance.id, False), instance.serving
        returned = instance.returns > self._seen_in_service.get(instance.id, 0)
        self._serving[instance.id], self._seen_in_service[instance.id] = serving, instance.returns
        states = {"before": _state(serving=before), "after": _state(serving=serving)}
        if serving and returned:
            self._write("HSM in service", {"hsm": instance.id, **states})
        elif before and not serving:
            self._write("HSM out of service", {"hsm": instance.id, "reason": instance.reason, **states})

    def _write(self, message: str, fields: dict[str, Any]) -> None:
        self._audit.write(message, partial(dict, {**fields, **actor()}))


def _state(*, serving: bool) -> str:
    return "in service" if serving else "out of service"
