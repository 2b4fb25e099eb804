"""A session worker: a thread that owns one session and takes calls from a queue."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from xksproxy.hsm._native import CallQueue, NativeSession
from xksproxy.hsm.errors import HsmError, SessionLost, TokenUnavailable
from xksproxy.hsm.instance.connector import Connector
from xksproxy.hsm.instance.repeated_warnings import RepeatedWarnings
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_call import SessionCall

_log: Final = logging.getLogger(__name__)


class SessionWorker:
    """A daemon thread with a session of its own. It takes calls only while it has one.

    A worker whose call does not return is replaced; when the call returns later, the worker ends.
    """

    def __init__(
        self,
        name: str,
        number: int,
        queue: "CallQueue[SessionCall]",
        connector: Connector,
        *,
        warnings: RepeatedWarnings,
        on_return: Callable[["SessionWorker"], None],
        on_session: Callable[[], None],
    ) -> None:
        """The callbacks run on the event loop: after a call that was given up; when a session was opened."""
        self.number = number
        self._queue = queue
        self._connector = connector
        self._warnings = warnings
        self._on_return = on_return
        self._on_session = on_session
        self._session: HsmSession | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread; the queue ends it."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread has not ended yet."""
        return self._thread.is_alive()

    @property
    def has_session(self) -> bool:
        """Whether it has a session that can make calls."""
        session = self._session
        return session is not None and session.alive

    @property
    def has_dead_session(self) -> bool:
        """Whether its session ended because the module was initialised again. Its next call replaces it."""
        session = self._session
        return session is not None and not session.alive

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, at most ``seconds``."""
        self._thread.join(seconds)

    def _run(self) -> None:
        given_up = False
        while not given_up and self._require_session():
            if (call := self._queue.get(self.number, self._native_session())) is None:
                break
            if not call.abandoned:
                self._serve(call)
            given_up = not self._queue.finish(call)
            del call  # it may hold a plaintext, and the next call may come much later
        self._discard()
        if given_up:
            self._tell(lambda: self._on_return(self))

    def _tell(self, callback: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(callback)

    def _require_session(self) -> bool:
        """Wait for a session if it has none. Returns whether it has one."""
        if self._session is None:
            self._session = self._connector.session()
            if self._session is not None:
                self._tell(self._on_session)
        return self._session is not None

    def _native_session(self) -> NativeSession | None:
        return None if self._session is None else self._session.native_session

    def _serve(self, call: SessionCall) -> None:
        call.begin_in_python()
        try:
            self._run_on_session(call)
        except HsmError as error:
            call.fail(error)
            if error.discards_session:
                self._warnings.warn("HSM session closed after a failure", str(error))
                self._discard()
        except Exception as error:  # noqa: BLE001 - a worker must outlive whatever a module or its binding does
            _log.exception("unexpected failure of an HSM session")
            call.fail(TokenUnavailable(f"unexpected {type(error).__name__} in an HSM session"))

    def _run_on_session(self, call: SessionCall) -> None:
        session = self._session
        if session is None or not session.alive:
            raise SessionLost("the module was initialised again")
        with session.module_lock:
            if not session.alive:
                raise SessionLost("the module was initialised again")
            call.serve(session)

    def _discard(self) -> None:
        """Close the session, unless the module was initialised again: then another session may have its handle."""
        session, self._session = self._session, None
        if session is None:
            return
        with suppress(HsmError), session.module_lock:
            if session.alive:
                session.close()
        self._connector.released()
