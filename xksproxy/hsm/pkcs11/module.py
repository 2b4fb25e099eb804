"""One PKCS#11 module of this process: loaded and initialised once for all HSMs that use it."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from pkcs11 import TokenFlag
from pkcs11 import exceptions as binding
from pkcs11._pkcs11 import lib as _BindingLibrary  # noqa: N812 - the binding gives its class a lower-case name

from xksproxy.config.token_names import TokenName
from xksproxy.hsm import _native
from xksproxy.hsm.errors import ModuleStuck, TokenUnavailable
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki, CryptokiError
from xksproxy.hsm.pkcs11.module_lock import ModuleLock
from xksproxy.hsm.pkcs11.process_environment import ProcessEnvironment

_log: Final = logging.getLogger(__name__)
_MOST_NAMED: Final = 8
_UNMAPPED: Final = re.compile(r"Unmapped error code (0x[0-9a-f]+)")


class _Library(_BindingLibrary):
    """python-pkcs11's library on the function list that Cryptoki has loaded and initialised.

    The library's own ``initialize`` promises the module a single thread, although several threads call it.
    """

    def initialize(self) -> None:
        """Do nothing: :meth:`Cryptoki.initialize` has done it."""


class Module:
    """One shared object. Safe to use from several threads.

    Its state is common to all its tokens. When it is initialised again, the sessions of all tokens end.
    """

    def __init__(
        self,
        path: str,
        environment: dict[str, str],
        initialize_string: str | None,
        process_environment: ProcessEnvironment,
    ) -> None:
        """Load nothing yet; see :meth:`load`. All modules of a process share the ``process_environment``."""
        self.path = path
        self.module_lock = ModuleLock()
        self._environment = environment
        self._process_environment = process_environment
        self._initialize_string = initialize_string
        self._loading = threading.Lock()
        """Held while the module is loaded or initialised again, so that one thread does it."""

        self._cryptoki: Cryptoki | None = None
        self._library: _Library | None = None
        self._skipped: dict[int, str] = {}

    @property
    def cryptoki(self) -> Cryptoki:
        """Its functions. Raises TokenUnavailable before :meth:`load`."""
        if self._cryptoki is None:
            raise TokenUnavailable(f"{self.path}: the module is not loaded")
        return self._cryptoki

    @property
    def loaded_cryptoki(self) -> Cryptoki | None:
        """Its functions; None before :meth:`load`."""
        return self._cryptoki

    def load(self, before_initialize: Callable[[], None] = lambda: None) -> None:
        """Load and initialise it, once. There is no time limit.

        Raises:
            TokenUnavailable: it cannot be loaded or initialised; the next call tries again.
        """
        with self._loading, self._failures_named():
            if self._cryptoki is None:
                with self._process_environment.holding(self._environment):
                    self._cryptoki = Cryptoki(self.path)
            if not self._cryptoki.initialized:
                before_initialize()
                with self._process_environment.holding(self._environment):
                    self._cryptoki.initialize(self._initialize_string)
            if self._library is None:
                # The binding loads the extension module, which gives it the list that Cryptoki has initialised.
                _native.offer_function_list(self._cryptoki.function_list_address)
                self._library = _Library(_native.__file__)

    def reinitialize(self, timeout: float) -> None:
        """C_Finalize and C_Initialize. Some modules need this to recover from the loss of their HSM.

        If several threads call it at once, it is done once.

        Raises:
            ModuleStuck: a call is still inside after ``timeout`` seconds; nothing was done.
            TokenUnavailable: C_Initialize fails.
        """
        generation = self.module_lock.generation
        with self._loading:
            if generation == self.module_lock.generation and self._cryptoki is not None:
                self._reinitialize(self._cryptoki, timeout)

    def _reinitialize(self, cryptoki: Cryptoki, timeout: float) -> None:
        with self.module_lock.closed(timeout) as emptied:
            if not emptied:
                raise ModuleStuck(
                    f"{self.path}: a call has not returned, so the module cannot be initialised again now"
                )
            self.module_lock.renew()
            with self._failures_named(), self._process_environment.holding(self._environment):
                with suppress(CryptokiError):  # after a failed attempt it is not initialised
                    cryptoki.finalize()
                cryptoki.initialize(self._initialize_string)

    def token(self, name: TokenName) -> Any:
        """The token with a name, as an object of the binding. A slot whose token cannot be read is skipped.

        Raises:
            TokenUnavailable: no token, or more than one, matches the name.
        """
        tokens, unreadable = self._readable_tokens()
        found = _fitting(tokens, name)
        if len(found) == 1:
            return found[0]
        text = f"{len(found)} tokens fit {name}; expected one"
        if found:
            text += f": {_distinctions(found)}; set serial of [[hsm]]"
        elif usable := [token for token in tokens if token.flags & TokenFlag.TOKEN_INITIALIZED]:
            text += f"; the module has: {_distinctions(usable)}"
        else:
            text += "; the module has none"
        if unreadable:
            text += f"; not readable: {', '.join(unreadable)}"
        raise TokenUnavailable(text)

    def tokens(self, name: TokenName) -> list[Any]:
        """All tokens that a name fits, as objects of the binding (TokenUnavailable if they cannot be listed)."""
        return _fitting(self._readable_tokens()[0], name)

    def _readable_tokens(self) -> tuple[list[Any], list[str]]:
        """The tokens of the module, and the slots whose token cannot be read."""
        calls = self.cryptoki.calls_inside
        assert self._library is not None  # noqa: S101 - set with cryptoki
        tokens: list[Any] = []
        unreadable: list[str] = []
        try:
            with calls.entered("C_GetSlotList"):
                slots = self._library.get_slots(token_present=True)
        except binding.PKCS11Error as error:
            raise TokenUnavailable(f"the module does not list its slots: {text_of(error)}") from error
        for slot in slots:
            try:
                with calls.entered("C_GetTokenInfo"):
                    tokens.append(slot.get_token())
            except (binding.TokenNotPresent, binding.TokenNotRecognised):
                continue
            except (binding.PKCS11Error, UnicodeDecodeError) as error:
                unreadable.append(self._skip(slot.slot_id, text_of(error)))
        return tokens, unreadable

    def _skip(self, slot: int, reason: str) -> str:
        if self._skipped.get(slot) != reason:
            self._skipped[slot] = reason
            _log.warning(
                "slot passed over: its token cannot be read",
                extra={"fields": {"module": self.path, "slot": slot, "reason": reason}},
            )
        return f"slot {slot} ({reason})"

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, CryptokiError, binding.PKCS11Error) as error:
            text = text_of(error).removeprefix(f"{self.path}: ")  # the loader begins with the path too
            raise TokenUnavailable(f"{self.path}: {text}") from error


def attributes_of(token: Any) -> dict[str, str]:
    """The attributes that identify a token of the binding, for :meth:`TokenName.fits`."""
    return {
        "label": token.label,
        "serial": token.serial.decode("ascii", "replace").rstrip(" \0"),
        "manufacturer": token.manufacturer_id.rstrip(" \0"),
        "model": token.model.rstrip(" \0"),
    }


def _fitting(tokens: list[Any], name: TokenName) -> list[Any]:
    return [token for token in tokens if name.fits(slot_id=token.slot.slot_id, **attributes_of(token))]


def _distinctions(tokens: list[Any]) -> str:
    """What tells the first tokens of a list apart. An HSM may have hundreds, and the text is a line of the log."""
    texts = sorted(_distinction(token) for token in tokens)
    more = len(texts) - _MOST_NAMED
    return "; ".join(texts[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _distinction(token: Any) -> str:
    attributes = attributes_of(token)
    return (
        f"serial {attributes['serial']!r} in slot {token.slot.slot_id}"
        f" (label {attributes['label']!r}, {attributes['manufacturer']} {attributes['model']})"
    )


def text_of(error: Exception) -> str:
    """The exception's text. If it says no more than a return value, as most of the binding do, the name of that."""
    text = str(error)
    if text.startswith("Parallel not supported"):
        return return_values.name(return_values.SESSION_PARALLEL_NOT_SUPPORTED)
    if unmapped := _UNMAPPED.fullmatch(text):
        return return_values.name(int(unmapped[1], 16))
    return text or return_values.name_of_class(type(error).__name__)
