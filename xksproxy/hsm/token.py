"""One token as the event loop sees it: calls with a deadline, answered by the first lane that is free."""

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TypeVar

from xksproxy.config.check import read_pin
from xksproxy.config.model import Hsm
from xksproxy.config.secret import SecretError
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import SessionLost, TokenUnavailable
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.lane import Job, Lane
from xksproxy.hsm.module import Modules, TokenInfo
from xksproxy.hsm.session import HsmSession, Sealed

_log: Final = logging.getLogger(__name__)
_RECONNECT_SECONDS: Final = 1.0

Result = TypeVar("Result")


class SessionOpener:
    """Opens sessions on one token, connecting first. After a failure it refuses for a second without trying.

    Safe to use from several threads.
    """

    def __init__(self, hsm: Hsm, modules: Modules) -> None:
        self._hsm = hsm
        self._modules = modules
        self._lock = threading.Lock()
        """Guards the last failure."""
        self._failure: TokenUnavailable | None = None
        self._failed_at = 0.0
        self.info: TokenInfo | None = None

    def open(self) -> HsmSession:
        """A logged-in session for the calling thread.

        Raises:
            TokenUnavailable: the module, the token or the log-in fails, or failed within the last second.
        """
        with self._lock:
            if self._failure is not None and time.monotonic() - self._failed_at < _RECONNECT_SECONDS:
                raise self._failure
        try:
            connection = self._modules.connect(self._hsm, read_pin(self._hsm))
            session = HsmSession(connection, self._hsm.preset)
        except (TokenUnavailable, SecretError) as error:
            self._remember(error)
            raise TokenUnavailable(str(error)) from error
        self.info = connection.info
        return session

    def _remember(self, error: Exception) -> None:
        with self._lock:
            self._failure = TokenUnavailable(str(error))
            self._failed_at = time.monotonic()
        _log.error("HSM unavailable", extra={"fields": {"hsm": self._hsm.id, "reason": str(error)}})


class Token:
    """The lanes of one token. Its methods are called on the event loop.

    Each raises, besides what :class:`HsmSession` raises, HsmBusy when no lane came free before the deadline and
    DeadlinePassed when the HSM was too slow. A session that turns out to be lost is replaced and the call repeated
    once: all calls here are safe to repeat.
    """

    def __init__(self, hsm: Hsm, modules: Modules) -> None:
        self.id = hsm.id
        self._opener = SessionOpener(hsm, modules)
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._lanes = [Lane(f"{hsm.id}-{index}", self._queue, self._opener.open) for index in range(hsm.sessions)]

    def start(self) -> None:
        """Start the threads. The token need not be reachable yet."""
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        """Let the threads end once they have done what is queued; none is waited for."""
        for _ in self._lanes:
            self._queue.put(None)

    @property
    def info(self) -> TokenInfo | None:
        """What the token says of itself; None until a first session was opened."""
        return self._opener.info

    async def encrypt(self, label: str, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        """AES-256-GCM under the key of a label; see :meth:`HsmSession.encrypt`."""
        return await self._call(lambda session: session.encrypt(label, plaintext, aad), deadline)

    async def decrypt(self, label: str, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        """The inverse of :meth:`encrypt`; see :meth:`HsmSession.decrypt`."""
        return await self._call(lambda session: session.decrypt(label, sealed, aad), deadline)

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        """What the token says of a key now; see :meth:`HsmSession.describe_key`."""
        return await self._call(lambda session: session.describe_key(label), deadline)

    async def self_test(self, deadline: Deadline) -> None:
        """Prove that the token does cryptography now; see :meth:`HsmSession.self_test`."""
        await self._call(HsmSession.self_test, deadline)

    async def _call(self, work: Callable[[HsmSession], Result], deadline: Deadline) -> Result:
        try:
            return await self._submit(work, deadline)
        except SessionLost:
            return await self._submit(work, deadline)

    async def _submit(self, work: Callable[[HsmSession], Result], deadline: Deadline) -> Result:
        job = Job(work, deadline)
        self._queue.put(job)
        result: Result = await job.result()
        return result
