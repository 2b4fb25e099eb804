"""Conversion of values between JSON and Python by shape."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from botocore.model import ListShape, MapShape, Shape, StructureShape

from xksproxy_tools.kms_emulator.errors import KmsError

_JSON_NAMES: Final[Mapping[type, str]] = {
    dict: "START_OBJECT",
    list: "START_ARRAY",
    str: "STRING_VALUE",
    bool: "BOOLEAN_VALUE",
    int: "NUMBER_VALUE",
    float: "NUMBER_VALUE",
}
_PYTHON_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "blob": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "timestamp": (int, float),
}


def decode(shape: Shape, value: Any) -> Any:
    """Convert a JSON value to the type of a shape. Members that are null or unknown are ignored, as AWS does.

    Raises:
        KmsError: SerializationException, for a value of a wrong type.
    """
    if not isinstance(value, _PYTHON_TYPES[shape.type_name]) or (
        isinstance(value, bool) and shape.type_name != "boolean"
    ):
        found = _JSON_NAMES.get(type(value), "NULL_VALUE")
        raise KmsError("SerializationException", f"{found} can not be converted to {_article(shape)}")
    return _DECODERS.get(shape.type_name, _unchanged)(shape, value)


def encode(shape: Shape, value: Any) -> Any:
    """The inverse of :func:`decode`. Members that are None are left out.

    Raises:
        KeyError: a structure has a member that the shape does not have.
    """
    return _ENCODERS.get(shape.type_name, _unchanged)(shape, value)


def _article(shape: Shape) -> str:
    return f"{'an' if shape.type_name[0] in 'aeiou' else 'a'} {shape.type_name}"


def _unchanged(_shape: Shape, value: Any) -> Any:
    return value


def _decode_structure(shape: StructureShape, value: dict[str, Any]) -> dict[str, Any]:
    return {name: decode(member, value[name]) for name, member in shape.members.items() if value.get(name) is not None}


def _decode_map(shape: MapShape, value: dict[str, Any]) -> dict[str, Any]:
    return {decode(shape.key, name): decode(shape.value, entry) for name, entry in value.items()}


def _decode_list(shape: ListShape, value: list[Any]) -> list[Any]:
    return [decode(shape.member, entry) for entry in value]


def _decode_string(_shape: Shape, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise KmsError(
            "SerializationException", "STRING_VALUE is not Unicode text: it has an unpaired surrogate"
        ) from None
    return value


def _decode_blob(_shape: Shape, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise KmsError("SerializationException", "STRING_VALUE can not be converted to a blob: not Base64") from None


def _encode_structure(shape: StructureShape, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encode(shape.members[name], entry) for name, entry in value.items() if entry is not None}


def _encode_list(shape: ListShape, value: list[Any]) -> list[Any]:
    return [encode(shape.member, entry) for entry in value]


def _encode_blob(_shape: Shape, value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_DECODERS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "structure": _decode_structure,
    "map": _decode_map,
    "list": _decode_list,
    "string": _decode_string,
    "blob": _decode_blob,
}
_ENCODERS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "structure": _encode_structure,
    "list": _encode_list,
    "blob": _encode_blob,
}
