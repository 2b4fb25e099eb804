"""The thread that connects one HSM and opens its sessions."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret, SecretError
from xksproxy.exhaustion import exhaustion
from xksproxy.hsm.errors import (
    GeneratorFailed,
    HsmError,
    LoginBarred,
    LoginRefused,
    ModuleStuck,
    NoRoomForSession,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_limits import session_warnings
from xksproxy.hsm.pkcs11.calls_inside import CallInside
from xksproxy.hsm.pkcs11.connection import Connection, TokenInfo
from xksproxy.hsm.pkcs11.modules import OPENING, Modules

_log: Final = logging.getLogger(__name__)

TESTING: Final = "testing the settings"
_WITNESS: Final = "reading what the token knows of the state directory"

_FIRST_BACKOFF_SECONDS: Final = 0.1
_MAXIMUM_BACKOFF_SECONDS: Final = 5.0
_OPERATOR_BACKOFF_SECONDS: Final = 30.0
_NO_ROOM_BACKOFF_SECONDS: Final = 2.0
_REINITIALIZE_AFTER_FAILURES: Final = 2
_REINITIALIZE_WAIT_SECONDS: Final = 1.0

_NEEDS_OPERATOR: Final = (LoginBarred, LoginRefused, SettingsMismatch, GeneratorFailed)
"""Failures that an operator must fix. The next attempt is made after 30 s."""


class Attempt(NamedTuple):
    """The current attempt of the connector to connect its HSM."""

    step: str
    since: float
    """When the attempt began, on the monotonic clock."""

    inside: CallInside | None
    """The call that has not returned."""

    def describe(self) -> str:
        """For status and log: how long it has taken, and where it is."""
        now = time.monotonic()
        where = f": {self.step}"
        if self.inside is not None:
            where += f", in {self.inside.function} since {now - self.inside.entered_at:.0f} s"
        return f"connecting since {now - self.since:.0f} s{where}"


class Connector:
    """Connects one HSM, step by step, and gives tested sessions to the session workers.

    It waits for a call that does not return, and makes no second one meanwhile. After a failed attempt it tries again,
    with growing pauses; after two failures it first initialises the module again. Session workers wait in
    :meth:`session`, the event loop reads the properties; ``on_change`` is called on the connector's thread.
    """

    def __init__(self, hsm: Hsm, modules: Modules, on_change: Callable[[], None]) -> None:
        self.info: TokenInfo | None = None
        """Vendor, model and serial number of the token; None until it was found."""
        self.failure: HsmError | None = None
        """Why the last attempt failed; None if it succeeded or there was none."""
        self.passed_tests = 0
        """How often the settings were tested successfully."""
        self.shortage = ""
        """Why there are fewer sessions than configured; empty if there are as many."""
        self.announced: list[str] = []
        """Warnings if the token reports fewer sessions than the workers want."""
        self.workers = 1
        """The number of worker processes of this machine that want sessions."""
        self.may_reinitialize: Callable[[], bool] = lambda: True
        """Asked before C_Finalize, which ends the sessions of every HSM of the module."""
        self.when_connected: Callable[[HsmSession], None] | None = None
        """Called with the anchor session after the first successful test of a connection, before the HSM serves."""
        self._hsm = hsm
        self._modules = modules
        self._on_change = on_change
        self._condition = threading.Condition()
        """Guards what follows."""
        self._waiting = 0
        self._ready: list[HsmSession] = []
        self._test_wanted = True
        self._stopping = False
        self._not_before = 0.0
        self._failures = 0
        """Attempts in a row that did not get as far as a connection that works. The module may need C_Initialize."""
        self._pauses = 0
        """Attempts in a row that failed, also those that only did not open all sessions."""
        self._attempt: tuple[str, float] | None = None
        self._own_since: float | None = None
        self._connection: Connection | None = None
        self._anchor_session: HsmSession | None = None
        self._in_use = 0
        """Sessions that session workers have."""
        self._thread = threading.Thread(target=self._run, name=f"{hsm.id}-connector", daemon=True)

    @property
    def attempt(self) -> Attempt | None:
        """The current attempt; None if it has nothing to do."""
        attempt = self._attempt
        return None if attempt is None else Attempt(*attempt, self.call_of(self._thread.ident or 0))

    @property
    def own_session_seconds(self) -> float:
        """For how long :meth:`on_own_session` has run; 0 if it does not."""
        since = self._own_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def needs_operator(self) -> bool:
        """Whether the last attempt failed for a reason that only an operator can remove."""
        return isinstance(self.failure, _NEEDS_OPERATOR)

    def call_of(self, thread: int) -> CallInside | None:
        """The call in which a thread is inside the module."""
        return self._modules.call_inside(self._hsm, thread)

    @property
    def attempting(self) -> bool:
        """Whether it connects or opens sessions at present, and does not pause or wait for work."""
        return self._attempt is not None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after its present call, and the waiting session workers at once."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the thread to end, at most ``seconds``."""
        self._thread.join(seconds)

    def request_test(self) -> None:
        """Ask for a test of the HSM now. Its result is in :attr:`passed_tests` and :attr:`failure`."""
        with self._condition:
            self._test_wanted = True
            self._not_before = 0.0
            self._condition.notify_all()

    def session(self) -> HsmSession | None:
        """Return a session for the calling thread, however long it takes; None when the connector is stopped."""
        with self._condition:
            self._waiting += 1
            try:
                while not self._stopping:
                    self._condition.notify_all()
                    self._condition.wait_for(lambda: self._ready or self._stopping)
                    while self._ready:
                        session = self._ready.pop()
                        if session.alive:
                            self._in_use += 1
                            return session
                return None
            finally:
                self._waiting -= 1

    def on_own_session(self, work: Callable[[HsmSession], None]) -> None:
        """Run ``work`` on the calling thread, in a session that is opened for it and closed afterwards.

        Raises:
            TokenUnavailable, NoRoomForSession, SessionLost: there is no session.
        """
        connection = self._connection
        if connection is None or not connection.alive:
            raise TokenUnavailable("the HSM is not connected")
        self._own_since = time.monotonic()
        try:
            session = self._opened(connection)
            with connection.module_lock:
                try:
                    work(session)
                finally:
                    session.close()
        finally:
            self._own_since = None

    def released(self) -> None:
        """Note that a session worker has closed its session."""
        with self._condition:
            self._in_use -= 1

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                self._work()
            except HsmError as error:
                self._failed(error)
            except Exception as error:  # noqa: BLE001 - without its connector an HSM would never serve again
                self._failed(TokenUnavailable(exhaustion(error) or self._unexpected(error)))
            finally:
                self._attempt = None

    def _unexpected(self, error: Exception) -> str:
        _log.exception("unexpected failure while connecting to an HSM", extra={"fields": {"hsm": self._hsm.id}})
        return f"unexpected {type(error).__name__} while connecting"

    def _wait_for_work(self) -> bool:
        with self._condition:
            while not self._stopping:
                now = time.monotonic()
                if self._has_work() and now >= self._not_before:
                    return True
                self._condition.wait(self._not_before - now if self._has_work() else None)
            return False

    def _has_work(self) -> bool:
        return self._test_wanted or self._waiting > len(self._ready)

    def _work(self) -> None:
        self._attempt = (OPENING, time.monotonic())
        if self._failures >= _REINITIALIZE_AFTER_FAILURES and not self.needs_operator and self.may_reinitialize():
            self._reinitialize()
        kept = self._connection
        try:
            self._serve_workers()
        except HsmError as error:
            if kept is None or isinstance(error, _NEEDS_OPERATOR):
                raise
            # The log-in may be lost, or the token may be in another slot now: find the token again, once.
            self._disconnect()
            self._serve_workers()

    def _serve_workers(self) -> None:
        """Connect if there is no connection, test the settings if a test is wanted, and open sessions."""
        connection = self._connected()
        if self._test_wanted or connection is not self._connection:
            self._test_settings(connection)
        self._failures, self.failure = 0, None
        self._open_sessions(connection)
        self._pauses = 0

    def _disconnect(self) -> None:
        self._modules.disconnect(self._hsm)
        self._connection = self._anchor_session = None

    def _connected(self) -> Connection:
        pin = self._pin()
        connection = self._modules.connect(self._hsm, pin, report=self._report, wait=lambda: not self._stopping)
        if connection is not self._connection:
            self.info = connection.info
            self._compare_sessions(connection)
        return connection

    def _compare_sessions(self, connection: Connection) -> None:
        """Warn if the token reports fewer sessions than the workers want."""
        with connection.module_lock:
            limits = connection.session_limits()
        read_write = connection.quirks.read_write_sessions
        self.announced = session_warnings(
            limits, sessions=self._hsm.sessions, workers=self.workers, read_write=read_write
        )
        for text in self.announced:
            fields = {"hsm": self._hsm.id, "reason": text}
            _log.warning("HSM may have fewer sessions than configured", extra={"fields": fields})

    def _pin(self) -> Secret | None:
        try:
            return read_pin(self._hsm)
        except (SecretError, UnicodeError) as error:
            reason = str(error) if isinstance(error, SecretError) else "it is not UTF-8 text"
            raise LoginBarred(f"the PIN cannot be read: {reason}") from None

    def _report(self, step: str) -> None:
        if self._attempt is not None:
            self._attempt = (step, self._attempt[1])

    def _test_settings(self, connection: Connection) -> None:
        """Test the settings on the anchor session, which no session worker uses."""
        self._report(TESTING)
        with connection.module_lock:
            if connection.anchor is None:
                raise TokenUnavailable("its only session failed")
            known = self._anchor_session if connection is self._connection else None
            session = known or HsmSession(connection, connection.anchor)
            self._anchor_session, self._connection = session, connection
            self._require_login(session)
            session.test_settings()
            if known is None and self.when_connected is not None:
                self._report(_WITNESS)
                self.when_connected(session)
        with self._condition:
            self._test_wanted = False
            self.passed_tests += 1
        self._on_change()

    def _open_sessions(self, connection: Connection) -> None:
        """Open one session for each session worker that waits, as many as the token has."""
        self._report(OPENING)
        while True:
            with self._condition:
                if self._stopping or self._waiting <= len(self._ready):
                    return
            try:
                session = self._opened(connection)
            except NoRoomForSession as error:
                self._note_shortage(error)
                anchor = self._anchor_if_needed(connection)
                if anchor is None:
                    return
                session = anchor
            with self._condition:
                self._ready.append(session)
                self._condition.notify_all()
                if session is self._anchor_session:
                    self._anchor_session = None
                    return
            if self.shortage:
                self.shortage = ""
                self._on_change()

    def _opened(self, connection: Connection) -> HsmSession:
        with connection.module_lock:
            session = HsmSession(connection)
            try:
                self._require_login(session)
            except HsmError:
                session.close()
                raise
            return session

    def _require_login(self, session: HsmSession) -> None:
        if not session.logged_in():
            _log.warning("HSM log-in lost", extra={"fields": {"hsm": self._hsm.id}})
            raise TokenUnavailable("the log-in was lost")

    def _anchor_if_needed(self, connection: Connection) -> HsmSession | None:
        """The anchor session, for a session worker, if none has a session: without it the HSM could not serve."""
        with self._condition:
            if self._in_use or self._ready:
                return None
        return None if connection.take_anchor() is None else self._anchor_session

    def _note_shortage(self, error: NoRoomForSession) -> None:
        """Continue with the sessions that are open, and try again after 1 to 3 s."""
        with self._condition:
            self._not_before = time.monotonic() + _NO_ROOM_BACKOFF_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
        if not self.shortage:
            _log.warning("HSM gives no more sessions", extra={"fields": {"hsm": self._hsm.id, "reason": str(error)}})
        self.shortage = str(error)
        self._on_change()

    def _failed(self, error: HsmError) -> None:
        """Drop the connection, and try again after a pause. A token that moved to another slot is found then."""
        self._disconnect()
        with self._condition:
            self.failure = error
            self._test_wanted = True
            self._not_before = time.monotonic() + self._backoff()
            self._failures += 1
            self._pauses += 1
        self._on_change()

    def _backoff(self) -> float:
        """The pause: at most 0.1 s after the first failure, doubling up to 5 s, with jitter; 30 s for an operator."""
        if isinstance(self.failure, _NEEDS_OPERATOR):
            return _OPERATOR_BACKOFF_SECONDS
        longest = min(_MAXIMUM_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** min(self._pauses, 10))
        return float(longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def _reinitialize(self) -> None:
        """Initialise the module again. If a call is still inside the module, continue without it."""
        try:
            self._modules.module(self._hsm).reinitialize(_REINITIALIZE_WAIT_SECONDS)
        except ModuleStuck as error:
            _log.warning("PKCS#11 module not initialised again", extra={"fields": {"reason": str(error)}})
        else:
            _log.warning("PKCS#11 module initialised again", extra={"fields": {"hsm": self._hsm.id}})
