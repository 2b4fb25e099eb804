"""PKCS#11 modules of this process: loaded once each, logged in once per token. The only user of python-pkcs11."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pkcs11 import Attribute, KeyType, MechanismFlag
from pkcs11 import exceptions as binding
from pkcs11._pkcs11 import lib as _BindingLibrary  # noqa: N812 - the binding gives its class a lower-case name

from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret
from xksproxy.hsm.cryptoki import Cryptoki, CryptokiError
from xksproxy.hsm.errors import LoginRefused, TokenUnavailable

_PIN_REFUSED: Final = (
    binding.PinIncorrect,
    binding.PinInvalid,
    binding.PinLenRange,
    binding.PinExpired,
    binding.PinLocked,
)


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What a token says of itself."""

    manufacturer: str
    model: str
    serial: str
    firmware: str


class _Library(_BindingLibrary):
    """python-pkcs11's library on a module that Cryptoki has initialised.

    Its own ``initialize`` promises the module that there is one thread, and then lets several in.
    """

    def initialize(self) -> None:
        """Leave that to :meth:`Cryptoki.initialize`."""


class Module:
    """One shared object, initialised in this process. Safe to use from several threads."""

    def __init__(self, path: str, environment: dict[str, str]) -> None:
        """Load and initialise it.

        Raises:
            TokenUnavailable: it cannot be loaded or initialised.
        """
        os.environ.update(environment)
        try:
            self.cryptoki = Cryptoki(path)
            self.cryptoki.initialize()
            self._library = _Library(path)
        except (OSError, CryptokiError, binding.PKCS11Error) as error:
            raise TokenUnavailable(f"{path}: {_text(error)}") from error

    def token(self, label: str) -> Any:
        """The binding's token of a label.

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
    """A token that this process is logged in to.

    The log-in happens on an anchor session which does no work and is never closed: closing it would log the whole
    process out. All other sessions are opened without a PIN. Safe to use from several threads.
    """

    def __init__(self, module: Module, label: str, pin: Secret | None) -> None:
        """Find the token and log in.

        Raises:
            LoginRefused: the PIN is wrong or locked.
            TokenUnavailable: there is no such token, or it fails.
        """
        self.cryptoki = module.cryptoki
        self.needs_login = pin is not None
        self._token = module.token(label)
        self.slot: int = self._token.slot.slot_id
        self.info = TokenInfo(
            self._token.manufacturer_id.strip(),
            self._token.model.strip(),
            self._token.serial.decode("ascii", "replace").strip(),
            ".".join(map(str, self._token.firmware_version)),
        )
        self._anchor = self._log_in(label, pin)

    def _log_in(self, label: str, pin: Secret | None) -> Any:
        try:
            return self._token.open(rw=True, user_pin=None if pin is None else pin.reveal())
        except binding.UserAlreadyLoggedIn:
            return None
        except _PIN_REFUSED as error:
            raise LoginRefused(f"token {label!r} refuses the PIN: {_text(error)}; it will not be tried again") from None
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"token {label!r}: {_text(error)}") from error

    def open_session(self) -> Any:
        """A session of the binding's for one thread, read/write because CloudHSM opens no other.

        Raises:
            TokenUnavailable: the token opens none.
        """
        self.cryptoki.require_own_process()
        try:
            return self._token.open(rw=True)
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"no session: {_text(error)}") from error


class Modules:
    """The modules and log-ins of this process, made when first asked for. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Guards both tables, and so that a module is initialised and a PIN is tried by one thread at a time."""
        self._modules: dict[str, Module] = {}
        self._connections: dict[str, Connection] = {}
        self._refused: dict[str, LoginRefused] = {}

    def connect(self, hsm: Hsm, pin: Secret | None) -> Connection:
        """The connection to a token. A PIN that was refused once is not tried again.

        Raises:
            TokenUnavailable: see :class:`Connection`.
        """
        with self._lock:
            if hsm.id in self._refused:
                raise self._refused[hsm.id]
            if hsm.id not in self._connections:
                if hsm.module not in self._modules:
                    self._modules[hsm.module] = Module(hsm.module, hsm.environment)
                try:
                    self._connections[hsm.id] = Connection(self._modules[hsm.module], hsm.token, pin)
                except LoginRefused as error:
                    self._refused[hsm.id] = error
                    raise
            return self._connections[hsm.id]


def generate_aes_key(session: Any, bits: int, *, label: str | None, encrypt: bool, decrypt: bool) -> int:
    """Make an AES key that never leaves the token (sensitive, not extractable) and return its handle.

    Without a label it is a session key, gone with the session.

    Raises:
        TokenUnavailable: the token makes none.
    """
    flags = (MechanismFlag.ENCRYPT if encrypt else 0) | (MechanismFlag.DECRYPT if decrypt else 0)
    template = {
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.PRIVATE: True,
        Attribute.ENCRYPT: encrypt,
        Attribute.DECRYPT: decrypt,
    }
    try:
        key = session.generate_key(
            KeyType.AES,
            bits,
            label=label,
            store=label is not None,
            capabilities=MechanismFlag(flags),
            template=template,
        )
    except binding.PKCS11Error as error:
        raise TokenUnavailable(f"the token makes no AES key: {_text(error)}") from error
    return int(key.handle)


def close_session(session: Any) -> None:
    """Close a session that carries no log-in; one that is gone already is no concern."""
    try:
        session.close()
    except binding.PKCS11Error:
        return


def _text(error: Exception) -> str:
    """The binding's exceptions mostly have no text; then the class says it."""
    return str(error) or type(error).__name__
