"""A wrong PIN is tried once only, however many workers and restarts there are: some tokens lock after three tries."""

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginBarred, LoginRefused, TokenUnavailable
from xksproxy.state.state_file import StateUnusable, file_lock, read_json, replace_file

_SCRYPT_N: Final = 2**14
_SCRYPT_R: Final = 8
_SCRYPT_P: Final = 1
_MAXIMUM_UNRESOLVED: Final = 2
_MAXIMUM_PINS: Final = 16
_LOCK_SECONDS: Final = 5.0

Outcome = Literal["accepted", "refused", "unresolved"]


class _Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of the attempts with one PIN."""

    outcome: Outcome
    unresolved: int = 0


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The PINs that were tried on one HSM, by their salted scrypt hashes."""

    salt: str
    pins: dict[str, _Pin]


class PinGuard:
    """The log-in attempts of this machine: one file for each HSM in the state directory, under a file lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def attempt(self, hsm_id: str, pin: Secret) -> Iterator[None]:
        """Record an attempt, and let the block log in. One process of this machine does so at a time.

        The attempt is recorded before the block runs. LoginRefused from the block marks the PIN as refused; success
        marks it as accepted. An attempt that is cut off changes nothing else; after two of them, a PIN that was never
        accepted counts as refused.

        Raises:
            LoginRefused: this PIN was refused before; it is not tried.
            TokenUnavailable: the state directory cannot be used.
        """
        with self._locked(hsm_id) as path:
            memory = self._read(path)
            key = _hash(pin, memory.salt)
            before = memory.pins.get(key)
            if before is not None and (before.outcome == "refused" or before.unresolved >= _MAXIMUM_UNRESOLVED):
                raise LoginRefused(
                    f"the PIN of HSM {hsm_id} was refused before and is not tried again;"
                    f" correct it, or allow another attempt with: xksproxy hsm allow-login {hsm_id}"
                )
            record = before or _Pin("unresolved")
            if record.outcome != "accepted":
                record = msgspec.structs.replace(record, unresolved=record.unresolved + 1)
                _write(path, memory, key, record)
            try:
                yield
            except LoginRefused:
                _write(path, memory, key, msgspec.structs.replace(record, outcome="refused"))
                raise
            except LoginBarred:
                _write(path, memory, key, before)
                raise
            if record.outcome != "accepted":
                _write(path, memory, key, _Pin("accepted"))

    def forget(self, hsm_id: str) -> bool:
        """Forget every PIN that was not accepted, so that it can be tried again; whether there was one.

        Raises:
            TokenUnavailable: the state directory cannot be used.
        """
        with self._locked(hsm_id) as path:
            memory = self._read(path)
            accepted = {key: pin for key, pin in memory.pins.items() if pin.outcome == "accepted"}
            replace_file(path, msgspec.json.encode(_Record(memory.salt, accepted)))
            return len(accepted) < len(memory.pins)

    @contextmanager
    def _locked(self, hsm_id: str) -> Iterator[Path]:
        path = self._directory / f"pin-{hashlib.sha256(hsm_id.encode()).hexdigest()[:16]}.json"
        try:
            with file_lock(path, _LOCK_SECONDS):
                yield path
        except StateUnusable as error:
            raise TokenUnavailable(f"log-in attempts cannot be recorded, so none is made: {error}") from error

    @staticmethod
    def _read(path: Path) -> _Record:
        """The record; a file that cannot be read stops the log-in."""
        try:
            return read_json(path, _Record) or _Record(secrets.token_hex(16), {})
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of log-ins cannot be read, so no log-in is tried: {error}") from error


def _hash(pin: Secret, salt: str) -> str:
    text = pin.reveal().encode()
    digest = hashlib.scrypt(text, salt=salt.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, dklen=32)
    return base64.b64encode(digest).decode("ascii")


def _write(path: Path, memory: _Record, key: str, pin: _Pin | None) -> None:
    """Record one PIN, the last of at most 16; it is on disk when this returns."""
    pins = {known: value for known, value in memory.pins.items() if known != key}
    if pin is not None:
        pins[key] = pin
    latest = dict(list(pins.items())[-_MAXIMUM_PINS:])
    replace_file(path, msgspec.json.encode(_Record(memory.salt, latest)))
