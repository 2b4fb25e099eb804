"""The PKCS#11 modules and log-ins of this process."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from xksproxy.config.model import Hsm
from xksproxy.config.module_files import file_identity
from xksproxy.config.secret import Secret
from xksproxy.config.token_names import TokenName
from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.pkcs11.calls_inside import CallInside
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.module import Module
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.hsm.pkcs11.presets import quirks_of
from xksproxy.hsm.pkcs11.process_environment import ProcessEnvironment
from xksproxy.hsm.pkcs11.shared_tokens import SharedTokens
from xksproxy.state.usage import UsageBook

LOADING: Final = "loading the module"
INITIALISING: Final = "initialising the module"
FINDING: Final = "finding the token"
OPENING: Final = "opening a session"
LOGGING_IN: Final = "logging in"
WAITING: Final = "waiting for another process that logs in to the token"

Report = Callable[[str], None]
"""Called with each step of an attempt to connect."""


class Modules:
    """Modules by file and connections by HSM, each made at its first use. Safe to use from several threads.

    During a call into a module, this object holds no lock except that of the HSM that connects.
    """

    def __init__(self, guard: PinGuard, usage: UsageBook, hsms: Iterable[Hsm] = ()) -> None:
        """``hsms`` are all HSMs of the configuration, in its order, also those that are not connected here."""
        self.usage = usage
        """Counts the encryptions of the sessions."""
        self._guard = guard
        self._shared_tokens = SharedTokens(guard, hsms)
        self._environment = ProcessEnvironment()
        self._fingerprint_index = FingerprintIndex(usage.directory)
        self._lock = threading.Lock()
        """Guards the three tables that follow, and the HSMs above."""
        self._modules: dict[object, Module] = {}
        self._by_path: dict[str, Module] = {}
        self._connections: dict[str, Connection] = {}
        self._connecting: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        """By HSM id: the lock that is held while a thread connects the HSM."""

    def module(self, hsm: Hsm) -> Module:
        """The module of an HSM, which may not be loaded yet. Two paths of one file are one module.

        Raises:
            TokenUnavailable: there is no such file.
        """
        try:
            Path(hsm.module).stat()
        except OSError as error:
            raise TokenUnavailable(f"{hsm.module}: {error.strerror}") from error
        with self._lock:
            key = file_identity(hsm.module)
            module = self._modules.get(key)
            if module is None:
                initialize_string = quirks_of(hsm).initialize_string
                module = Module(hsm.module, hsm.environment, initialize_string, self._environment)
                self._modules[key] = module
            self._by_path[hsm.module] = module
            return module

    def call_inside(self, hsm: Hsm, thread: int) -> CallInside | None:
        """The call in which a thread, by its identifier, is inside an HSM's module. It asks no disk."""
        module = self._by_path.get(hsm.module)
        cryptoki = None if module is None else module.loaded_cryptoki
        return None if cryptoki is None else cryptoki.calls_inside.of_thread(thread)

    def connect(
        self,
        hsm: Hsm,
        pin: Secret | None,
        *,
        report: Report = lambda _: None,
        wait: Callable[[], bool] | None = None,
    ) -> Connection:
        """Return the connection to a token. It is a new one if there is none or the module was initialised again.

        There is no time limit. ``report`` is called with each step. While another process of this machine logs in,
        ``wait`` is called about once a second, and returns whether to wait longer.

        Raises:
            LoginRefused: the PIN is wrong, or was refused before.
            TokenUnavailable: see :class:`Connection`.
        """
        with self._connecting[hsm.id]:
            connection = self._connections.get(hsm.id)
            if connection is None or not connection.alive:
                connection = self._connect(hsm, pin, report, wait)
                with self._lock:
                    self._connections[hsm.id] = connection
            return connection

    def _connect(self, hsm: Hsm, pin: Secret | None, report: Report, wait: Callable[[], bool] | None) -> Connection:
        with self._lock:
            self._shared_tokens.add(hsm)
        report(LOADING)
        module = self.module(hsm)
        module.load(lambda: report(INITIALISING))
        report(FINDING)
        with module.module_lock:
            connection = Connection(
                module,
                _token_name(hsm),
                quirks_of(hsm),
                self.usage,
                self._fingerprint_index,
                needs_login=pin is not None,
            )
            report(OPENING)
            connection.open_anchor()
        if pin is None:
            return connection
        try:
            self._log_in(hsm, connection, pin, report, wait)
        except BaseException:
            _close_anchor(connection)
            raise
        return connection

    def _log_in(
        self, hsm: Hsm, connection: Connection, pin: Secret, report: Report, wait: Callable[[], bool] | None
    ) -> None:
        """Wait for the log-in lock of this machine, outside the module, then log in."""
        with connection.module_lock:
            self._shared_tokens.require_same_pin(hsm, connection, pin)
            encoded = connection.checked_pin(pin)
        report(LOGGING_IN)

        def goes_on() -> bool:
            report(WAITING)
            return wait is None or wait()

        with (
            self._guard.attempt(
                hsm.id,
                pin,
                token=self._shared_tokens.record_name(hsm, connection),
                before_unknown=_inside(connection, connection.require_not_last_try),
                before_repeated=_inside(connection, connection.require_no_wrong_pin),
                wait=None if wait is None else goes_on,
            ),
            connection.module_lock,
        ):
            report(LOGGING_IN)
            connection.log_in(encoded)

    def disconnect(self, hsm: Hsm) -> None:
        """Forget the connection to a token, so that the next :meth:`connect` finds the token and logs in again."""
        with self._lock:
            connection = self._connections.pop(hsm.id, None)
        if connection is not None:
            _close_anchor(connection)

    def log_out(self, hsm: Hsm) -> None:
        """Log out of a token, so that the next :meth:`connect` needs the PIN."""
        with self._lock:
            connection = self._connections.pop(hsm.id, None)
        if connection is not None:
            connection.log_out()


def _token_name(hsm: Hsm) -> TokenName:
    try:
        return TokenName.of_settings(hsm)
    except ValueError as error:
        raise TokenUnavailable(f"the token of HSM {hsm.id} is not named: {error}") from error


def _inside(connection: Connection, check: Callable[[], None]) -> Callable[[], None]:
    def checked() -> None:
        with connection.module_lock:
            check()

    return checked


def _close_anchor(connection: Connection) -> None:
    """Close the anchor session, unless the module is being initialised again, which closes it too."""
    if connection.module_lock.enter():
        try:
            if connection.alive:
                connection.close_anchor()
        finally:
            connection.module_lock.leave()
