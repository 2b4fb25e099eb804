"""Escaping of text from a settings file, for TOML, TOML comments and a terminal."""

import json
import re
from typing import Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def quote(text: str) -> str:
    """A TOML basic string: a JSON string without ASCII escapes, with DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def dotted(*keys: str) -> str:
    """A dotted TOML key."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else printable(quote(key)) for key in keys)


def printable(text: str) -> str:
    """The text with control characters escaped, which could start a new line or control a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
