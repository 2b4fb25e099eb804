"""The attributes of key objects."""

from collections.abc import Mapping
from ctypes import c_ulong
from typing import Final

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.keys import KeyDescription

_CKA_CLASS: Final = 0x000
_CKA_TOKEN: Final = 0x001
_CKA_LABEL: Final = 0x003
_CKA_CHECK_VALUE: Final = 0x090
_CKA_KEY_TYPE: Final = 0x100
_CKA_ID: Final = 0x102
_CKA_ENCRYPT: Final = 0x104
_CKA_DECRYPT: Final = 0x105
_CKA_MODULUS: Final = 0x120
_CKA_VALUE_LEN: Final = 0x161
_CKA_SENSITIVE: Final = 0x103
_CKA_EXTRACTABLE: Final = 0x162

_USAGES: Final[Mapping[int, str]] = {
    _CKA_ENCRYPT: "ENCRYPT",
    _CKA_DECRYPT: "DECRYPT",
    0x108: "SIGN",
    0x10A: "VERIFY",
    0x106: "WRAP",
    0x107: "UNWRAP",
    0x10C: "DERIVE",
}
_KEY_TYPES: Final[Mapping[int, str]] = {
    0x00: "RSA",
    0x01: "DSA",
    0x02: "DH",
    0x03: "EC",
    0x10: "GENERIC_SECRET",
    0x13: "DES",
    0x14: "DES2",
    0x15: "DES3",
    0x1F: "AES",
    0x2B: "SHA256_HMAC",
    0x33: "CHACHA20",
    0x40: "EC_EDWARDS",
}

_CKK_AES: Final = 0x1F
_CKO_PRIVATE_KEY: Final = 3
_CKO_SECRET_KEY: Final = 4

KEY_CLASSES: Final = (_CKO_SECRET_KEY, _CKO_PRIVATE_KEY)
"""The values of CKA_CLASS that count as keys. A label of two such objects is ambiguous."""

KEY_ATTRIBUTES: Final = (
    _CKA_CLASS,
    _CKA_LABEL,
    _CKA_ID,
    _CKA_KEY_TYPE,
    _CKA_VALUE_LEN,
    _CKA_MODULUS,
    _CKA_SENSITIVE,
    _CKA_EXTRACTABLE,
    _CKA_CHECK_VALUE,
    *_USAGES,
)
"""The attributes that :func:`describe` reads."""


def key_template(key_class: int, name: ObjectName) -> dict[int, bytes]:
    """A search template for the token keys of a class with a name. An empty name matches every key.

    Without CKA_TOKEN, session keys of every session would match too.
    """
    template = {_CKA_CLASS: bytes(c_ulong(key_class)), _CKA_TOKEN: b"\1"}
    if name.label is not None:
        template[_CKA_LABEL] = name.label.encode()
    if name.object_id is not None:
        template[_CKA_ID] = name.object_id
    return template


def has_attribute(kind: int, read: Mapping[int, bytes], *, has_id: bool = False) -> bool:
    """Whether a key with the attributes that were read before, in the order of ``KEY_ATTRIBUTES``, has another one.

    If it has, and the module fails to read it, the key must not be described without it: it would seem to have another
    name or fewer usages. Modules that lack the others may fail at them. ``has_id``: the key was found by its CKA_ID.
    """
    if kind in (_CKA_CLASS, _CKA_LABEL, _CKA_KEY_TYPE):
        return True
    is_aes = (_number(read, _CKA_CLASS), _number(read, _CKA_KEY_TYPE)) == (_CKO_SECRET_KEY, _CKK_AES)
    return (kind == _CKA_ID and has_id) or (is_aes and kind in (_CKA_VALUE_LEN, _CKA_ENCRYPT, _CKA_DECRYPT))


def describe(attributes: Mapping[int, bytes]) -> KeyDescription:
    """The description of a key object from its attributes. Missing attributes are not guessed (R-META-2, R-META-3)."""
    return KeyDescription(
        label=attributes.get(_CKA_LABEL, b"").decode("utf-8", "replace"),
        spec=_spec(attributes),
        usages=tuple(usage for kind, usage in _USAGES.items() if _is_true(attributes, kind)),
        sensitive=_is_true(attributes, _CKA_SENSITIVE),
        extractable=_is_true(attributes, _CKA_EXTRACTABLE),
        check_value=attributes.get(_CKA_CHECK_VALUE) or None,
        object_id=attributes.get(_CKA_ID) or None,
    )


def _spec(attributes: Mapping[int, bytes]) -> str:
    key_type = _number(attributes, _CKA_KEY_TYPE)
    if key_type is None:
        return "UNKNOWN"
    name = _KEY_TYPES.get(key_type, f"CKK_0x{key_type:08X}")
    bits = 8 * (_number(attributes, _CKA_VALUE_LEN) or len(attributes.get(_CKA_MODULUS, b"")))
    if key_type == _CKK_AES and _number(attributes, _CKA_CLASS) != _CKO_SECRET_KEY:
        return "UNKNOWN"
    return f"{name}_{bits}" if bits else name


def _number(attributes: Mapping[int, bytes], kind: int) -> int | None:
    value = attributes.get(kind, b"")
    return c_ulong.from_buffer_copy(value).value if len(value) == len(bytes(c_ulong())) else None


def _is_true(attributes: Mapping[int, bytes], kind: int) -> bool:
    return attributes.get(kind, b"\0") != b"\0"
