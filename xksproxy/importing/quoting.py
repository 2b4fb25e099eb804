"""Texts from a settings file, made safe for a TOML file, a comment in it and a terminal."""

import json
import re
from typing import Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def quote(text: str) -> str:
    """A TOML basic string. JSON's is one, but for DEL and for characters it would write as two escapes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def dotted(*keys: str) -> str:
    """A dotted TOML key."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else printable(quote(key)) for key in keys)


def printable(text: str) -> str:
    """One line without control characters, which could start a new line of a file or command a terminal."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
