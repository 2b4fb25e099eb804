"""Checks of the ``[[hsm]]`` tables, which need no HSM."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.config.module_files import file_identity
from xksproxy.config.pins import read_pin
from xksproxy.config.regular_file import FIFO, kind_of
from xksproxy.config.secret import Secret, SecretError
from xksproxy.config.token_names import TokenName


def hsm_problems(at: str, hsm: Hsm) -> Iterator[str]:
    """What is wrong with one table, at the path ``at``, apart from its files."""
    try:
        TokenName.of_settings(hsm)
    except ValueError as error:
        yield f"{at}: {error}"
    for name, value in hsm.environment.items():
        if not name or "=" in name or "\0" in name + value:
            yield f"{at}.environment: {name!r} is not valid; expected a name without =, and no NUL in name or value"
        elif value.startswith("/") and kind_of(Path(value)) == FIFO:
            yield f"{at}.environment.{name}: {value} is {FIFO}, and a module that reads it would wait for ever"


def shared_module_problems(hsms: Iterable[Hsm]) -> Iterator[str]:
    """A PKCS#11 module has one state in a process, and reads its environment once."""
    environments: dict[object, dict[str, str]] = {}
    for index, hsm in enumerate(hsms):
        if environments.setdefault(file_identity(hsm.module), hsm.environment) != hsm.environment:
            yield f"hsm[{index}].environment: differs from another [[hsm]] with the same module; expected the same"


def shared_token_problems(hsms: Sequence[Hsm]) -> Iterator[str]:
    """A process is logged in to a token once, and a wrong PIN costs all that use the token a try.

    If one name has all parts of another, both name one token. Other names show only on the token whether they do.
    """
    for index, hsm in enumerate(hsms):
        pin = _readable_pin(hsm)
        for other in hsms[:index]:
            if pin is not None and _name_one_token(hsm, other) and _has_another_pin(other, pin):
                yield f"hsm[{index}].pin: {hsm.id} names the same token as {other.id}; expected the same PIN"
                break


def _has_another_pin(hsm: Hsm, pin: Secret) -> bool:
    own = _readable_pin(hsm)
    return own is not None and own.reveal() != pin.reveal()


def _name_one_token(one: Hsm, other: Hsm) -> bool:
    try:
        names = TokenName.of_settings(one), TokenName.of_settings(other)
    except ValueError:
        return False
    same_file = file_identity(one.module) == file_identity(other.module)
    return same_file and (names[0].includes(names[1]) or names[1].includes(names[0]))


def _readable_pin(hsm: Hsm) -> Secret | None:
    """The PIN; None if there is none, or if it cannot be read here, which another check reports."""
    with suppress(SecretError, UnicodeError):
        return read_pin(hsm)
    return None
