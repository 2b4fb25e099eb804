"""The record of the PINs that were tried on one token: one file of the state directory."""

import base64
import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from xksproxy.config.secret import Secret
from xksproxy.state.state_file import FORMAT, StateUnusable, read_json, replace_file

_SCRYPT_N: Final = 2**14
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_MAXIMUM_PINS: Final = 16

Outcome = Literal["accepted", "refused", "unresolved"]


class Pin(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of the attempts with one PIN."""

    outcome: Outcome
    unresolved: int = 0
    began: float = 0.0
    """Unix time in seconds at which the last unresolved attempt began."""


class PinRecord(msgspec.Struct, frozen=True):
    """The PINs that were tried on one token, by their salted scrypt hashes."""

    salt: str
    pins: dict[str, Pin]
    hsms: tuple[str, ...] = ()
    """The ids of the HSMs that had this token."""

    format: int = FORMAT


def pin_hash(pin: Secret, salt: str) -> str:
    """The scrypt hash of a PIN, in Base64. It takes 16 MB of memory and some 50 ms."""
    text = pin.reveal().encode()
    digest = hashlib.scrypt(text, salt=salt.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, dklen=32)
    return base64.b64encode(digest).decode("ascii")


def record_pin(path: Path, record: PinRecord, key: str, pin: Pin | None) -> None:
    """Record one PIN, the last of at most 16; it is on disk when this returns."""
    pins = {known: value for known, value in record.pins.items() if known != key}
    if pin is not None:
        pins[key] = pin
    latest = dict(list(pins.items())[-_MAXIMUM_PINS:])
    replace_record(path, msgspec.structs.replace(record, pins=latest))


def replace_record(path: Path, record: PinRecord) -> None:
    """Write a record. Fields that a later release has added stay."""
    document = _document(path)
    others = document.get("pins", {})
    pins = {key: {**_unknown(others.get(key, {}), Pin), **msgspec.to_builtins(pin)} for key, pin in record.pins.items()}
    known = {"salt": record.salt, "pins": pins, "hsms": record.hsms, "format": FORMAT}
    replace_file(path, msgspec.json.encode({**_unknown(document, PinRecord), **known}))


def read_record(path: Path) -> PinRecord | None:
    """The record; None if there is no file (StateUnusable if it cannot be read)."""
    record = read_json(path, PinRecord)
    if record is not None and record.format != FORMAT:
        raise StateUnusable(f"{path}: its format is {record.format}, expected {FORMAT}; a later release wrote it")
    return record


def _document(path: Path) -> dict[str, Any]:
    """What the file holds; empty if it is no record."""
    try:
        return {} if read_record(path) is None else read_json(path, dict[str, Any]) or {}
    except StateUnusable:
        return {}


def _unknown(fields: dict[str, Any], known: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known.__struct_fields__}
