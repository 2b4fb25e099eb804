"""Several HSMs of the configuration that are on one token: all need the same PIN, since a wrong one costs all a try."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from xksproxy.config.model import Hsm
from xksproxy.config.module_files import file_identity
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret, SecretError
from xksproxy.config.token_names import TokenName
from xksproxy.hsm.errors import LoginBarred
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.pin_guard import PinGuard


class SharedTokens:
    """The HSMs of a configuration. They say who may log in where two name one token, in each process the same."""

    def __init__(self, guard: PinGuard, hsms: Iterable[Hsm]) -> None:
        self._guard = guard
        self._hsms = {hsm.id: hsm for hsm in hsms}

    def add(self, hsm: Hsm) -> None:
        """Note an HSM that is connected; it comes after those that are known."""
        self._hsms.setdefault(hsm.id, hsm)

    def record_name(self, hsm: Hsm, connection: Connection) -> str:
        """The name of a token for the PIN guard: one, by whatever path and name an HSM has it."""
        first = next((other for other in self._hsms.values() if _share_module(other, hsm)), hsm)
        return f"{connection.info.identity or repr(connection.label)} of {first.module}"

    def require_same_pin(self, hsm: Hsm, connection: Connection, pin: Secret) -> None:
        """Refuse a PIN if another HSM has the same token and another PIN, before it is tried.

        One of the two must be wrong. A PIN that the token accepted before may be used, and otherwise that of the first
        HSM of the configuration. The calling thread must be inside the module lock.

        Raises:
            LoginBarred: it must not be tried.
            TokenUnavailable: the module does not list its tokens, or the record of log-ins cannot be read.
        """
        others = [(other, theirs) for other, theirs in self._with_other_pins(hsm, pin) if _is_on(other, connection)]
        token = self.record_name(hsm, connection)
        if not others or self._guard.is_accepted(hsm.id, pin, token):
            return
        order = [*self._hsms]
        for other, theirs in others:
            if order.index(other.id) < order.index(hsm.id) or self._guard.is_accepted(other.id, theirs, token):
                raise LoginBarred(
                    f"HSM {other.id} is on the same token, {connection.name}, with another PIN; no log-in is tried;"
                    " both need the same PIN"
                )

    def _with_other_pins(self, hsm: Hsm, pin: Secret) -> Iterator[tuple[Hsm, Secret]]:
        """The HSMs of the same module that have another PIN, which can be read here."""
        for other in self._hsms.values():
            if other.id != hsm.id and other.pin is not None and _share_module(other, hsm):
                with suppress(SecretError, UnicodeError):
                    theirs = read_pin(other)
                    if theirs is not None and theirs.reveal() != pin.reveal():
                        yield other, theirs


def _share_module(one: Hsm, other: Hsm) -> bool:
    return one.module == other.module or file_identity(one.module) == file_identity(other.module)


def _is_on(hsm: Hsm, connection: Connection) -> bool:
    try:
        name = TokenName.of_settings(hsm)
    except ValueError:
        return False
    return connection.is_named(name)
