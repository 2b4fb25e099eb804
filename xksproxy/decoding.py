"""Decoding of data into the Structs of msgspec, from several threads at once.

msgspec examines a type when it decodes it for the first time. If two threads do this at once, the process crashes
(msgspec 0.22). So one thread does it before the others decode.
"""

import threading
from collections.abc import Hashable
from functools import cache
from typing import Any, Final, TypeVar, cast

import msgspec

Content = TypeVar("Content")

_examining: Final = threading.Lock()


def decode_json(content: bytes, content_type: type[Content]) -> Content:
    """Decode JSON.

    Raises:
        msgspec.MsgspecError: it is not JSON, is nested too deeply, or is not of this type.
    """
    decoder: msgspec.json.Decoder[Content] = _decoder(cast(Hashable, content_type))
    try:
        return decoder.decode(content)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"it is not UTF-8 text ({error.reason})") from None
    except RecursionError:
        raise msgspec.DecodeError("it is nested too deeply") from None


def convert(document: Any, content_type: type[Content]) -> Content:
    """Convert a decoded document to a type.

    Raises:
        msgspec.ValidationError: it is not of this type.
    """
    _decoder(cast(Hashable, content_type))
    return msgspec.convert(document, content_type)


@cache
def _decoder(content_type: Hashable) -> msgspec.json.Decoder[Any]:
    with _examining:
        return msgspec.json.Decoder(cast(type[Any], content_type))
