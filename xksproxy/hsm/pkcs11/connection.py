"""The log-in of this process to one token, and the sessions that it opens."""

from collections.abc import Mapping
from contextlib import suppress
from ctypes import c_ulong
from dataclasses import dataclass
from typing import Any, Final

from pkcs11 import exceptions as binding

from xksproxy.config.secret import Secret
from xksproxy.config.token_names import TokenName
from xksproxy.hsm.errors import LoginBarred, NoRoomForSession, SessionLost, TokenUnavailable
from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.generator_check import GeneratorCheck
from xksproxy.hsm.pkcs11.log_in import is_count_low, is_last_try, login_error, pin_bytes, require_possible_pin
from xksproxy.hsm.pkcs11.module import Module, attributes_of, text_of
from xksproxy.hsm.pkcs11.pin_guard import NothingLearnt
from xksproxy.hsm.pkcs11.quirks import Quirks
from xksproxy.hsm.pkcs11.structures import CK_TOKEN_INFO
from xksproxy.state.usage import UsageBook

_NO_ROOM: Final = frozenset(
    {
        "CKR_HOST_MEMORY",
        "CKR_DEVICE_MEMORY",
        "CKR_SESSION_COUNT",
        "CKR_SESSION_PARALLEL_NOT_SUPPORTED",
        "CKR_TOKEN_RESOURCE_EXCEEDED",
    }
)
_NOT_REPORTED: Final = frozenset({0, c_ulong(-1).value})
"""CK_EFFECTIVELY_INFINITE and CK_UNAVAILABLE_INFORMATION."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """Vendor, model, serial number and firmware version of a token."""

    manufacturer: str
    model: str
    serial: str
    firmware: str

    @property
    def identity(self) -> str:
        """A text that identifies the token whatever its label is; empty if it has no serial number."""
        return f"{self.manufacturer}, {self.model}, serial {self.serial}" if self.serial else ""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The number of sessions that a token allows a process; None if the token does not report it."""

    maximum: int | None
    """ulMaxSessionCount."""

    maximum_read_write: int | None
    """ulMaxRwSessionCount."""


class Connection:
    """A token that this process is logged in to. Safe to use from several threads.

    The log-in is made on an anchor session, which stays open: a token ends the log-in with its last session. All other
    sessions are opened without a PIN.
    """

    def __init__(
        self,
        module: Module,
        name: TokenName,
        quirks: Quirks,
        usage: UsageBook,
        fingerprint_index: FingerprintIndex,
        *,
        needs_login: bool,
    ) -> None:
        """Find the token. The calling thread must be inside the module lock.

        Raises:
            TokenUnavailable: there is no such token, or it fails.
        """
        self.cryptoki = module.cryptoki
        self.quirks = quirks
        self.usage = usage
        self.fingerprint_index = fingerprint_index
        self.generator_check = GeneratorCheck()
        self.needs_login = needs_login
        self.key_hints: Mapping[str, int] = {}
        """Handles of keys by name, from the last listing of all keys. It is replaced as a whole."""
        self.module_lock = module.module_lock
        self._generation = module.module_lock.generation
        self.name = name
        """What the token was found by."""
        self._module = module
        self._token = module.token(name)
        self.label: str = self._token.label
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
        """False if the module was initialised again after the connection was made."""
        return self._generation == self.module_lock.generation

    def is_named(self, name: TokenName) -> bool:
        """Whether a name fits this token and, of the tokens that the module has now, no other.

        Raises:
            TokenUnavailable: the module does not list its tokens.
        """
        fits = name.fits(slot_id=self.slot, **attributes_of(self._token))
        return fits and len(self._module.tokens(name)) == 1

    def open_anchor(self) -> None:
        """Open the anchor session. This needs no PIN.

        Raises:
            NoRoomForSession, TokenUnavailable: the token opens no session.
        """
        if self._anchor is None:
            self._anchor = self.open_session()

    def close_anchor(self) -> None:
        """Close the anchor session. The log-in ends if it is the last session."""
        if self._anchor is not None:
            with self.cryptoki.calls_inside.entered("C_CloseSession"):
                close_session(self._anchor)
            self._anchor = None

    def take_anchor(self) -> Any:
        """Give the anchor session to a session worker, if the token has no other; None if it was given before."""
        anchor, self._anchor = self._anchor, None
        return anchor

    @property
    def anchor(self) -> Any:
        """The anchor session of the binding; None if it is not open or was given to a session worker."""
        return self._anchor

    def log_in(self, pin: bytes) -> None:
        """C_Login on the anchor session.

        Raises:
            LoginRefused: the PIN is wrong.
            LoginBarred: the token refuses every log-in, or there is no user.
            NothingLearnt: this process is logged in already.
            SessionLost, TokenUnavailable: the session or the token fails.
        """
        if not self.alive:
            raise SessionLost("the module was initialised again during the log-in")
        try:
            self.cryptoki.log_in(self._anchor.handle, pin)
        except CryptokiError as error:
            failure = login_error(self.label, error.return_value)
            if failure is None:
                raise NothingLearnt from None
            raise failure from None

    def log_out(self) -> None:
        """Log this process out; its other sessions then see no private objects."""
        with suppress(SessionLost), self.module_lock:  # SessionLost: initialising it again ends all log-ins
            if self._anchor is not None and self.alive:
                with suppress(CryptokiError):
                    self.cryptoki.log_out(self._anchor.handle)
                self.close_anchor()

    def checked_pin(self, pin: Secret) -> bytes:
        """Return the PIN as bytes, if the token can have such a PIN and is not locked.

        Raises:
            LoginBarred: a log-in with it cannot succeed.
            TokenUnavailable: the token cannot be read.
        """
        encoded = pin_bytes(pin)
        require_possible_pin(self.label, self._token_info(), encoded)
        return encoded

    def require_not_last_try(self) -> None:
        """Raise LoginBarred if one more wrong PIN would lock the token."""
        if is_last_try(self._token_info()):
            raise LoginBarred(
                f"token {self.label!r} locks its user PIN at the next wrong one, and this PIN was never accepted here;"
                " log in once with the vendor's tool, which resets the count"
            )

    def require_no_wrong_pin(self) -> None:
        """Raise LoginBarred if the token reports a wrong PIN: the attempt that was cut off may have been one."""
        if is_count_low(self._token_info()):
            raise LoginBarred(
                f"the last log-in to token {self.label!r} was cut off, and the token reports a wrong PIN; it is"
                " not tried again. Check the PIN, then log in once with the vendor's tool, which resets the count"
            )

    def require_present(self) -> None:
        """Raise TokenUnavailable if the slot has another token now, CryptokiError if the slot cannot be read."""
        info = self.cryptoki.token_info(self.slot)
        if (_text(info.label), _text(info.serialNumber)) != (self.label.rstrip(), self.info.serial):
            raise TokenUnavailable(f"slot {self.slot} has another token than {self.label!r} now")

    def session_limits(self) -> SessionLimits:
        """The limits for sessions that the token reports.

        Raises:
            TokenUnavailable: the token cannot be read.
        """
        info = self._token_info()
        return SessionLimits(_reported(info.ulMaxSessionCount), _reported(info.ulMaxRwSessionCount))

    def open_session(self) -> Any:
        """Open a session of the binding on this token, for one thread.

        Raises:
            NoRoomForSession: the token has no more sessions.
            TokenUnavailable: the token opens no session.
        """
        self.cryptoki.require_own_process()
        try:
            self.require_present()
            with self.cryptoki.calls_inside.entered("C_OpenSession"):
                return self._token.open(rw=self.quirks.read_write_sessions)
        except CryptokiError as error:
            raise TokenUnavailable(f"no session: {error}") from error
        except binding.PKCS11Error as error:
            text = text_of(error)
            raise (NoRoomForSession if text in _NO_ROOM else TokenUnavailable)(f"no session: {text}") from error

    def _token_info(self) -> CK_TOKEN_INFO:
        try:
            return self.cryptoki.token_info(self.slot)
        except CryptokiError as error:
            raise TokenUnavailable(f"token {self.label!r} cannot be read: {error}") from error


def close_session(session: Any) -> None:
    """Close a session of the binding. It may be closed already."""
    try:
        session.close()
    except binding.PKCS11Error:
        return


def _reported(count: int) -> int | None:
    return None if count in _NOT_REPORTED else int(count)


def _text(padded: bytes) -> str:
    return padded.decode("utf-8", "replace").rstrip()
