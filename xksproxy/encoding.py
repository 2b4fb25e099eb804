"""Encoding of data as JSON that may have text which is not Unicode: bytes of file names, arguments and variables."""

from typing import Any

import msgspec


def encode_json(content: Any) -> bytes:
    r"""Encode as JSON. Bytes that Python could not decode as text are written as the characters ``\udcXX``."""
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:
        return msgspec.json.encode(_text_only(msgspec.to_builtins(content)))


def _text_only(value: Any) -> Any:
    """The same with every text made of Unicode."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_text_only(name): _text_only(item) for name, item in value.items()}
        case list() | tuple():
            return [_text_only(item) for item in value]
    return value
