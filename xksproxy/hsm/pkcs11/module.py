"""The PKCS#11 modules of this process, each loaded once, and the log-ins, one for each token."""

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from pkcs11 import exceptions as binding
from pkcs11._pkcs11 import lib as _BindingLibrary  # noqa: N812 - the binding gives its class a lower-case name

from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginBarred, LoginRefused, ModuleStuck, SessionLost, TokenUnavailable, UserMissing
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki, CryptokiError
from xksproxy.hsm.pkcs11.module_lock import ModuleLock
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.hsm.pkcs11.presets import quirks_of
from xksproxy.hsm.pkcs11.quirks import Quirks
from xksproxy.state.usage import UsageBook

_PIN_REFUSED: Final = (binding.PinIncorrect, binding.PinInvalid, binding.PinLenRange)
_PIN_BARRED: Final = (binding.PinExpired, binding.PinLocked)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """Vendor, model, serial number and firmware version of a token."""

    manufacturer: str
    model: str
    serial: str
    firmware: str


class _Library(_BindingLibrary):
    """python-pkcs11's library on a module that Cryptoki has initialised.

    The library's own ``initialize`` promises the module a single thread, although several threads call it.
    """

    def initialize(self) -> None:
        """Do nothing: :meth:`Cryptoki.initialize` has done it."""


class Module:
    """One shared object, initialised in this process. Safe to use from several threads.

    It has one state for all its tokens: initialising it again ends the sessions of all of them.
    """

    def __init__(self, path: str, environment: dict[str, str], initialize_string: str | None) -> None:
        """Load and initialise it.

        Raises:
            TokenUnavailable: it cannot be loaded or initialised.
        """
        self.path = path
        self.module_lock = ModuleLock()
        self._environment = environment
        self._initialize_string = initialize_string
        self._reinitializing = threading.Lock()
        with self._failures_named():
            os.environ.update(environment)
            self.cryptoki = Cryptoki(path)
            self.cryptoki.initialize(initialize_string)
            self._library = _Library(path)

    def reinitialize(self, timeout: float) -> None:
        """C_Finalize and C_Initialize: some modules recover from the loss of their HSM in no other way.

        If several threads ask for it at once, it is done once.

        Raises:
            ModuleStuck: a call is still inside after ``timeout`` seconds; nothing was done.
            TokenUnavailable: the module refuses.
        """
        generation = self.module_lock.generation
        with self._reinitializing:
            if generation == self.module_lock.generation:
                self._reinitialize(timeout)

    def _reinitialize(self, timeout: float) -> None:
        with self.module_lock.closed(timeout) as emptied:
            if not emptied:
                raise ModuleStuck(f"{self.path}: a call does not return, so the module cannot be initialised again")
            self.module_lock.renew()
            with self._failures_named():
                os.environ.update(self._environment)
                with suppress(CryptokiError):  # after a failed attempt it is not initialised
                    self.cryptoki.finalize()
                self.cryptoki.initialize(self._initialize_string)

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except AttributeError as error:
            raise TokenUnavailable(f"{self.path}: it is no PKCS#11 module: it has no C_GetFunctionList") from error
        except (OSError, CryptokiError, binding.PKCS11Error) as error:
            raise TokenUnavailable(f"{self.path}: {_text(error)}") from error

    def token(self, label: str) -> Any:
        """The token with a label, as an object of the binding.

        Raises:
            TokenUnavailable: no token, or more than one, has the label.
        """
        try:
            tokens = [token for token in self._tokens() if token.label == label]
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"the module does not list its tokens: {_text(error)}") from error
        if len(tokens) != 1:
            raise TokenUnavailable(f"{len(tokens)} tokens have the label {label!r}; expected one")
        return tokens[0]

    def _tokens(self) -> Iterable[Any]:
        for slot in self._library.get_slots(token_present=True):
            try:
                yield slot.get_token()
            except (binding.TokenNotPresent, binding.TokenNotRecognised):
                continue


class Connection:
    """A token that this process is logged in to. Safe to use from several threads.

    The log-in is made on an anchor session, which does no other work and stays open: the binding logs the whole process
    out when it closes that session. All other sessions are opened without a PIN.
    """

    def __init__(self, module: Module, label: str, quirks: Quirks, usage: UsageBook, *, needs_login: bool) -> None:
        """Find the token.

        Raises:
            TokenUnavailable: there is no such token, or it fails.
        """
        self.cryptoki = module.cryptoki
        self.quirks = quirks
        self.usage = usage
        self.needs_login = needs_login
        self.key_hints: Mapping[str, int] = {}
        """Handles of keys by label, from the last listing of all keys; replaced as a whole."""
        self.module_lock = module.module_lock
        self._module = module
        self._generation = module.module_lock.generation
        self._label = label
        self._token = module.token(label)
        self._anchor: Any = None
        self.slot: int = self._token.slot.slot_id
        self.info = TokenInfo(
            self._token.manufacturer_id.strip(),
            self._token.model.strip(),
            self._token.serial.decode("ascii", "replace").strip(),
            ".".join(map(str, self._token.firmware_version)),
        )

    @property
    def alive(self) -> bool:
        """Whether the module has not been initialised again since."""
        return self._generation == self.module_lock.generation

    def log_in(self, pin: Secret | None) -> None:
        """Open the anchor session and log in on it.

        Raises:
            LoginRefused: the PIN is wrong.
            LoginBarred: the PIN is locked or expired, or there is no user.
            TokenUnavailable: the token fails.
        """
        try:
            self._anchor = self._token.open(
                rw=self.quirks.read_write_sessions, user_pin=None if pin is None else pin.reveal()
            )
        except binding.UserAlreadyLoggedIn:
            return
        except _PIN_REFUSED as error:
            raise LoginRefused(
                f"token {self._label!r} refuses the PIN: {_text(error)}; it is not tried again"
            ) from None
        except _PIN_BARRED as error:
            raise LoginBarred(
                f"token {self._label!r} refuses every log-in: {_text(error)}; its owner has to unlock it"
            ) from None
        except binding.UserPinNotInitialized:
            raise UserMissing(f"token {self._label!r} has no user PIN yet") from None
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"token {self._label!r}: {_text(error)}") from error

    def log_out(self) -> None:
        """Log this process out; its other sessions then see no private objects."""
        with suppress(SessionLost), self.module_lock:  # SessionLost: initialising it again ends all log-ins
            if self._anchor is not None and self.alive:
                close_session(self._anchor)

    def open_session(self) -> Any:
        """A new session of the binding, for one thread.

        Raises:
            TokenUnavailable: the token opens no session.
        """
        self.cryptoki.require_own_process()
        try:
            return self._token.open(rw=self.quirks.read_write_sessions)
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"no session: {_text(error)}") from error


class Modules:
    """The modules and log-ins of this process, each made at its first use. Safe to use from several threads."""

    def __init__(self, guard: PinGuard, usage: UsageBook) -> None:
        self.usage = usage
        """Counts the encryptions of the sessions."""
        self._guard = guard
        self._lock = threading.Lock()
        """Guards the tables. It is held while a module is initialised or a PIN is tried, so that one thread does it."""
        self._modules: dict[str, Module] = {}
        self._connections: dict[str, Connection] = {}

    def module(self, hsm: Hsm) -> Module:
        """The module of an HSM, loaded and initialised.

        Raises:
            TokenUnavailable: it cannot be.
        """
        with self._lock:
            return self._loaded(hsm)

    def _loaded(self, hsm: Hsm) -> Module:
        if hsm.module not in self._modules:
            quirks = quirks_of(hsm)
            self._modules[hsm.module] = Module(hsm.module, hsm.environment, quirks.initialize_string)
        return self._modules[hsm.module]

    def connect(self, hsm: Hsm, pin: Secret | None) -> Connection:
        """The connection to a token; a new one if there is none or the module was initialised again.

        Raises:
            LoginRefused: the PIN is wrong, or was refused before.
            TokenUnavailable: see :class:`Connection`.
        """
        with self._lock:
            connection = self._connections.get(hsm.id)
            if connection is None or not connection.alive:
                connection = Connection(
                    self._loaded(hsm), hsm.token, quirks_of(hsm), self.usage, needs_login=pin is not None
                )
                if pin is None:
                    connection.log_in(None)
                else:
                    with self._guard.attempt(hsm.id, pin):
                        connection.log_in(pin)
                self._connections[hsm.id] = connection
            return connection

    def disconnect(self, hsm: Hsm) -> None:
        """Forget the connection to a token, so that the next :meth:`connect` finds the token and logs in again."""
        with self._lock:
            self._connections.pop(hsm.id, None)

    def log_out(self, hsm: Hsm) -> None:
        """Log out of a token, so that the next :meth:`connect` needs the PIN."""
        with self._lock:
            connection = self._connections.pop(hsm.id, None)
            if connection is not None:
                connection.log_out()


def close_session(session: Any) -> None:
    """Close a session that was opened without a PIN; it may be gone already."""
    try:
        session.close()
    except binding.PKCS11Error:
        return


def _text(error: Exception) -> str:
    """The exception's text, or the name of its class: most exceptions of the binding have no text."""
    return str(error) or type(error).__name__
