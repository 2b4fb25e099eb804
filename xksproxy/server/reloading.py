"""Changes the configuration inside a running worker."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config
from xksproxy.server.accepted import Accepted
from xksproxy.server.reserve_ahead import note_nearly_used
from xksproxy.server.services import Services
from xksproxy.server.snapshot import fixed_settings
from xksproxy.server.state_tables import guarded
from xksproxy.telemetry.metrics import Metrics

_log: Final = logging.getLogger(__name__)
_TURN_SECONDS: Final = 10.0
"""The maximum time that a worker waits for the others, one of which may be stuck."""

_POLL_SECONDS: Final = 0.02


class Reloading:
    """Builds what the master has accepted on a thread, one worker at a time. Requests are answered meanwhile."""

    def __init__(
        self,
        take: Callable[[], Accepted],
        started_with: Config,
        services: Services,
        metrics: Metrics,
        runtime: Path,
    ) -> None:
        """``take`` returns what was accepted last, or raises ConfigError.

        ``started_with`` is the configuration of the process; ``runtime`` is the directory of all workers.
        """
        self._take = take
        self._fixed_settings = fixed_settings(started_with)
        self._services = services
        self._metrics = metrics
        self._runtime = runtime

    async def reload(self, then: Callable[[str], None]) -> None:
        """Use what was accepted last, then call ``then`` with the request that asked for it.

        If it cannot be used in this process, nothing changes.
        """
        try:
            accepted = await asyncio.to_thread(self._replace)
        except ConfigError as error:
            self._metrics.reload_failed.labels().set(1)
            _log.error("configuration refused", extra={"fields": {"problems": error.problems}})
        except Exception:  # noqa: BLE001 - whatever it is, the old snapshot goes on serving
            self._metrics.reload_failed.labels().set(1)
            _log.exception("configuration refused")
        else:
            if accepted is None:
                _log.info("configuration left to the workers that replace this one")
                return
            self._metrics.reload_failed.labels().set(0)
            for instance in self._services.instances:
                instance.check_soon()
            _log.info("configuration in place", extra={"fields": {"number": accepted.number}})
            then(accepted.request)

    def _replace(self) -> Accepted | None:
        with _turn(self._runtime):
            accepted = self._take()
            if fixed_settings(accepted.config) != self._fixed_settings:
                return None
            self._services.replace_snapshot(accepted.config, accepted)
        guarded(partial(note_nearly_used, self._services))  # a maximum may be lower
        return accepted


@contextmanager
def _turn(runtime: Path) -> Iterator[None]:
    """Wait until no other worker is in this block, at most 10 s, and not where there is no room for the lock."""
    try:
        descriptor = os.open(runtime / "reload-turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    end = time.monotonic() + _TURN_SECONDS
    try:
        while time.monotonic() < end:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
