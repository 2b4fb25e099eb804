"""Never trying a wrong PIN twice, whatever the number of workers and restarts: some tokens lock at the third."""

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
    """What became of the attempts with one PIN."""

    outcome: Outcome
    unresolved: int = 0


class _Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The PINs that were tried on one HSM, by their salted slow hashes."""

    salt: str
    pins: dict[str, _Pin]


class PinGuard:
    """The memory of log-in attempts of this machine: one file an HSM in the state directory, under a file lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def attempt(self, hsm_id: str, pin: Secret) -> Iterator[None]:
        """Allow the block to log in, once at a time on this machine.

        The attempt is written down before the block runs. A block that raises LoginRefused marks the PIN as refused;
        one that ends well marks it as accepted; one that is cut off leaves it as it was, and after two such
        attempts a PIN that never was accepted counts as refused.

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
        """Allow another attempt with every PIN that was not accepted; whether there was one.

        Raises:
            TokenUnavailable: the state directory cannot be used.
        """
        with self._locked(hsm_id) as path:
            memory = self._read(path)
            accepted = {key: pin for key, pin in memory.pins.items() if pin.outcome == "accepted"}
            replace_file(path, msgspec.json.encode(_Memory(memory.salt, accepted)))
            return len(accepted) < len(memory.pins)

    @contextmanager
    def _locked(self, hsm_id: str) -> Iterator[Path]:
        path = self._directory / f"pin-{hashlib.sha256(hsm_id.encode()).hexdigest()[:16]}.json"
        try:
            with file_lock(path, _LOCK_SECONDS):
                yield path
        except StateUnusable as error:
            raise TokenUnavailable(f"log-in attempts cannot be remembered, so none is made: {error}") from error

    @staticmethod
    def _read(path: Path) -> _Memory:
        """What is remembered; a file that cannot be read stops the log-in, it is not ignored."""
        try:
            return read_json(path, _Memory) or _Memory(secrets.token_hex(16), {})
        except StateUnusable as error:
            raise TokenUnavailable(
                f"what is known of log-ins cannot be read, so no log-in is tried: {error}"
            ) from error


def _hash(pin: Secret, salt: str) -> str:
    text = pin.reveal().encode()
    digest = hashlib.scrypt(text, salt=salt.encode(), n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, dklen=32)
    return base64.b64encode(digest).decode("ascii")


def _write(path: Path, memory: _Memory, key: str, pin: _Pin | None) -> None:
    """Remember one PIN, the last of at most 16; on disk before the log-in goes on."""
    pins = {known: value for known, value in memory.pins.items() if known != key}
    if pin is not None:
        pins[key] = pin
    latest = dict(list(pins.items())[-_MAXIMUM_PINS:])
    replace_file(path, msgspec.json.encode(_Memory(memory.salt, latest)))
