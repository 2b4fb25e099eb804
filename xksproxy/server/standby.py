"""Lets a worker without an HSM session leave new connections to the workers that have one."""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from xksproxy.hsm.instance.instance import State
from xksproxy.server.http.listener import Listener
from xksproxy.server.http.service import HttpService
from xksproxy.server.services import Services
from xksproxy.server.worker_status import WorkerStatus, collect

_log: Final = logging.getLogger(__name__)
_FRESH_SECONDS: Final = 3.0


class Standby:
    """Stops the listener of this worker from accepting while other workers serve and this one cannot.

    A token may have fewer sessions than there are workers. If no worker serves, all workers accept connections, so that
    requests are answered with the reason.
    """

    def __init__(self, services: Services, listener: Listener, service: HttpService, directory: Path) -> None:
        """``directory`` is where the workers publish their status."""
        self._services = services
        self._listener = listener
        self._service = service
        self._directory = directory
        self.elsewhere: frozenset[str] = frozenset()
        """The ids of the HSMs that serve in other workers, while this one accepts no connections; otherwise empty."""

    def hsms_of_others(self) -> frozenset[str]:
        """The ids of the HSMs that are in service in other workers. It reads files, so call it on a thread."""
        return serving_hsms(collect(self._directory), os.getpid(), time.time())

    def update(self, hsms_of_others: frozenset[str]) -> None:
        """Let the listener accept connections or not. While it does not, each answer closes its connection."""
        serves = any(instance.serving and instance.sessions for instance in self._services.instances)
        self.elsewhere = frozenset() if serves else hsms_of_others
        held = bool(self.elsewhere)
        if held == self._listener.held:
            return
        self._listener.hold(held=held)
        self._service.closes_after_answer = held
        if held:
            _log.warning("worker has no HSM session, other workers accept")
        else:
            _log.warning("worker accepts connections")


def serving_hsms(workers: Iterable[WorkerStatus], own_pid: int, now: float) -> frozenset[str]:
    """The ids of the HSMs that are in service in other workers, by their status of the last 3 s."""
    return frozenset(
        hsm.id
        for worker in workers
        if worker.pid != own_pid and now - worker.at < _FRESH_SECONDS
        for hsm in worker.hsms
        if hsm.state == State.SERVING.value and hsm.sessions
    )
