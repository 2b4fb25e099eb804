"""The audit lines about the life cycle of the service, not about requests.

Events of commands and of the master come through :class:`~xksproxy.state.audit_spool.AuditSpool`.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from xksproxy import __version__
from xksproxy.config.model import Config
from xksproxy.hsm.instance.instance import Instance
from xksproxy.server.services import Services
from xksproxy.state.audit_spool import AuditEntry, AuditSpool, actor
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.witness import Witness
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.state_witness import MESSAGE as STATE_MESSAGE
from xksproxy.telemetry.state_witness import WitnessLines, witness_file

_log: Final = logging.getLogger(__name__)
_UNREADABLE: Final = "event unreadable"


class LifeCycle:
    """Writes life-cycle events to the audit log of this worker. Belongs to its event loop."""

    def __init__(
        self,
        audit: AuditLog,
        state_directory: Path,
        witness: WitnessLines,
        *,
        writes_state: bool,
        keep: Callable[[Witness | None], None] = lambda _: None,
    ) -> None:
        """``witness`` makes the lines about the state directory; ``writes_state``: they are written.

        ``keep`` is called, on a thread, with what the newest of these lines says.
        """
        self._keep = keep
        self._audit = audit
        self._witness = witness
        self._writes_state = writes_state
        self._state_line: Mapping[str, Any] | None = None
        self._spool = AuditSpool(state_directory)
        self._queued: dict[str, int] = {}
        """Events that are queued in the audit log, and the number of written lines at which each is written."""
        self._problem = ""
        self._seen_in_service: dict[str, int] = {}
        self._serving: dict[str, bool] = {}

    def begin(self) -> None:
        """Write that this worker starts. It is the first line of its chain."""
        self._write("worker started", {"version": __version__})

    async def follow(self) -> None:
        """Write the waiting events, unless another worker does. An event that cannot be read has a line too."""
        try:
            waiting = await asyncio.to_thread(self._take_waiting)
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("events for the audit log cannot be read", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return
        self._problem = ""
        if line := self._state_line:
            self._audit.write(STATE_MESSAGE, partial(dict, line))
        for name, entry in waiting.items():
            if self._audit.full:
                return
            found = entry or AuditEntry(0.0, _UNREADABLE, {})
            fields = {**found.fields, "event": name.partition(".")[0]}
            self._queued[name] = self._audit.write(found.message, partial(dict, fields), at=found.at or None)

    def _take_waiting(self) -> dict[str, AuditEntry | None]:
        """Remove the events whose lines are written, and return those that are not queued."""
        self._state_line = None
        if not self._spool.become_writer():
            return {}
        line = self._witness.take()
        self._state_line = line if self._writes_state else None
        self._keep(self._witness.newest)
        self._forget_written()
        return {name: entry for name, entry in self._spool.entries().items() if name not in self._queued}

    def close(self) -> None:
        """Remove the events whose lines are written. Call it after the audit log was closed."""
        with suppress(StateUnusable):  # the next writer writes it again, with the same id
            self._forget_written()

    def _forget_written(self) -> None:
        done = [name for name, mark in list(self._queued.items()) if self._audit.written >= mark]
        self._spool.remove(done)
        for name in done:
            del self._queued[name]

    def follow_hsm(self, instance: Instance) -> None:
        """Write whether an HSM came into service or went out of service in this worker since the last call."""
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


def witness_lines(config: Config, services: Services) -> WitnessLines:
    """What raises the number of the state directory, by which an older copy is noticed, and makes lines of it."""
    return WitnessLines(
        Path(config.state.directory),
        lambda: services.state.life_cycle_changes,
        lambda: services.state.lost or services.state.token_witness.unread,
        services.state.number,
    )


def has_witness(config: Config) -> bool:
    """Whether something outside of the state directory shall know its number."""
    return witness_file(config) is not None or config.state.witness == "token"


def keep_on_tokens(services: Services, newest: Witness | None) -> None:
    """Let the tokens know the number of the state directory, if they are its witnesses."""
    services.state.token_witness.keep(newest, services.state.life_cycle_changes)
