"""The PINs of tokens."""

import unicodedata
from typing import Final

from xksproxy.config.model import Hsm
from xksproxy.config.secret import MAXIMUM_PIN_BYTES, Secret, SecretError, checked_secret, read_secret

_LINE_BREAKS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def read_pin(hsm: Hsm) -> Secret | None:
    """The PIN of a token, or None if it needs no log-in.

    Raises:
        SecretError: the PIN cannot be read, or has a control character or an invisible one. PKCS#11 lets a PIN be any
            UTF-8 text, but such a character was hardly meant, and each try with a wrong PIN may cost one of the few
            that a token permits.
    """
    if hsm.pin is None:
        return None
    source, pin = _source(hsm)
    if problem := _character_problem(pin.reveal()):
        raise SecretError(f"{source}: {problem}")
    return pin


def _source(hsm: Hsm) -> tuple[str, Secret]:
    """What the PIN is read from, for messages, and the PIN."""
    if isinstance(hsm.pin, str):
        return "the text", checked_secret(hsm.pin, "the text")
    assert hsm.pin is not None  # noqa: S101 - the caller has checked
    source = hsm.pin.file or (f"the environment variable {hsm.pin.env}" if hsm.pin.env else hsm.pin.credential)
    return str(source), read_secret(hsm.pin, MAXIMUM_PIN_BYTES)


def _character_problem(pin: str) -> str:
    """Why a text cannot be meant as a PIN, without any part of it; empty if it can."""
    if any(character in _LINE_BREAKS for character in pin):
        return f"it has {len(pin.splitlines())} lines; a PIN is one line"
    if any(unicodedata.category(character) == "Cc" for character in pin):
        return "it has a control character, such as a tab or an escape sequence; a PIN is text without them"
    for character in pin:
        if unicodedata.category(character) == "Cf":
            name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
            return f"it has an invisible character ({name}), as copied text may have; a PIN is text without them"
    return ""
