"""Quoting of text from a settings file, for TOML."""

import json
import re
from typing import Final

from xksproxy.printable import printable

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def quote(text: str) -> str:
    """A TOML basic string: a JSON string without ASCII escapes, with DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def dotted(*keys: str) -> str:
    """A dotted TOML key."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else printable(quote(key)) for key in keys)
