"""Ensures that a wrong PIN is tried only once, by all workers together: some tokens lock after three tries."""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginRefused, TokenUnavailable
from xksproxy.hsm.pkcs11.pin_record import Pin, PinRecord, pin_hash, read_record, record_pin, replace_record
from xksproxy.state.audit_spool import leave_event
from xksproxy.state.state_file import StateUnusable, file_lock

_MAXIMUM_UNRESOLVED: Final = 2
"""The number of log-ins with one PIN that may be cut off. It is below any token's limit for wrong PINs."""

_PAUSE_SECONDS: Final = 10.0
"""The pause after an attempt that was cut off. It doubles after each further one."""

_LOCK_SECONDS: Final = 60.0
_LOCK_ATTEMPT_SECONDS: Final = 1.0
_HUNG_SECONDS: Final = 10.0
"""If another process is inside C_Login for so long, a PIN that was accepted before is tried beside it."""


class NothingLearnt(Exception):
    """Raised by the block of an attempt: this process is already logged in, so C_Login did not check the PIN."""


class PinGuard:
    """The log-in attempts of this machine: one file for each token in the state directory, under a file lock.

    So a PIN that a token refused is not tried again under another id of the HSM. Where an earlier release has recorded
    the PINs of an HSM by its id, this is the beginning of the record of its token.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time, lost: Callable[[], str] = str) -> None:
        """``clock`` gives the Unix time; ``lost`` says why the records are not in the directory now, or nothing."""
        self._directory = directory
        self._lost = lost
        self._clock = clock
        self._hashes: dict[str, tuple[str, Secret, str]] = {}
        """By token: the last salt, PIN and hash. scrypt needs 16 MB, so it is computed once for each PIN."""

        self._hashing = threading.Lock()

    @contextmanager
    def attempt(
        self,
        hsm_id: str,
        pin: Secret,
        *,
        token: str = "",
        before_unknown: Callable[[], None] = lambda: None,
        before_repeated: Callable[[], None] = lambda: None,
        wait: Callable[[], bool] | None = None,
    ) -> Iterator[None]:
        """Record an attempt, and let the block call C_Login. One process of this machine does so at a time.

        The attempt is recorded before the block runs. LoginRefused from the block marks the PIN as refused; success
        marks it as accepted. After any other exception, also NothingLearnt, the record is the same as before. If the
        process ends inside the block, the attempt was cut off: the next one is made at least 10 s after it began. After
        two such attempts, a PIN that was never accepted is not tried again.

        ``token`` identifies the token, whatever the id of the HSM is; without it, the id does.
        ``before_unknown`` is called before a PIN that was never accepted is tried, ``before_repeated`` before one whose
        last attempt was cut off; both may raise to prevent it. While another process holds the lock, ``wait`` is called
        about once a second, and the attempt is given up when it returns False. Without ``wait``, it is given up after a
        minute. Another process that hangs in C_Login holds up a PIN that was accepted before for 10 s only: then one
        process at a time logs in beside it.

        Raises:
            LoginRefused: this PIN was refused before, or its attempts were cut off; it is not tried.
            TokenUnavailable: the state directory cannot be used, or an attempt was cut off a moment ago.
        """
        path = self._path(token or hsm_id)
        with self._locked(path, wait, lambda: self.is_accepted(hsm_id, pin, token)) as beside_another:
            record = self._record_of(hsm_id, path)
            key = self._hash(token or hsm_id, pin, record.salt)
            before = record.pins.get(key)
            _require_untried(hsm_id, before)
            known = before or Pin("unresolved")
            if beside_another and known.outcome != "accepted":
                raise TokenUnavailable(f"another process is logging in to HSM {hsm_id}")
            if known.outcome != "accepted":
                before_unknown()
                if known.unresolved:
                    _require_pause(hsm_id, known, self._clock())
                    before_repeated()
                known = msgspec.structs.replace(known, unresolved=known.unresolved + 1, began=self._clock())
                record_pin(path, record, key, known)
            try:
                yield
            except LoginRefused:
                record_pin(path, record, key, msgspec.structs.replace(known, outcome="refused"))
                states = {"before": known.outcome, "after": "refused"}
                leave_event(self._directory, "log-in refused", {"hsm": hsm_id, **states})
                raise
            except NothingLearnt:
                self._restore(path, record, key, before)
                return
            except Exception:
                self._restore(path, record, key, before)
                raise
            if known.outcome != "accepted":
                record_pin(path, record, key, Pin("accepted"))

    def is_accepted(self, hsm_id: str, pin: Secret, token: str = "") -> bool:
        """Whether the token accepted this PIN before. It needs no lock: the file is replaced as a whole.

        Raises:
            TokenUnavailable: the record cannot be read.
        """
        record = self._read(self._newest(hsm_id, self._path(token or hsm_id)))
        known = record.pins.get(self._hash(token or hsm_id, pin, record.salt))
        return known is not None and known.outcome == "accepted"

    def forget(self, hsm_id: str, wait: Callable[[], bool] | None = None) -> bool:
        """Forget every PIN that was not accepted, so that it can be tried again. Returns whether there was one.

        A record that cannot be read is replaced by an empty one, and counts as one with such a PIN. While another
        process logs in to the token, ``wait`` is called at once and then about once a second; see :meth:`attempt`.

        Raises:
            TokenUnavailable: the state directory cannot be used, or the other process still logs in.
        """
        own = self._path(hsm_id)
        paths = sorted({own, *self._directory.glob("pin-*.json")})
        # Records of other tokens are not locked: another HSM may hang in C_Login.
        forgotten = [self._forget(path, hsm_id, wait) for path in paths if self._remembers(path, hsm_id)]
        return any(forgotten)

    def _remembers(self, path: Path, hsm_id: str) -> bool:
        """Whether a record is damaged, or has a PIN of an HSM that was not accepted."""
        try:
            record = self._read(path)
        except TokenUnavailable:
            return True
        concerns = path == self._path(hsm_id) or hsm_id in record.hsms
        return concerns and any(pin.outcome != "accepted" for pin in record.pins.values())

    def _forget(self, path: Path, hsm_id: str, wait: Callable[[], bool] | None) -> bool:
        with self._locked(path, wait, purpose="nothing was changed"):
            if not self._remembers(path, hsm_id):
                return False
            try:
                record = self._read(path)
            except TokenUnavailable:
                replace_record(path, PinRecord(secrets.token_hex(16), {}, (hsm_id,)))
                return True
            accepted = {key: pin for key, pin in record.pins.items() if pin.outcome == "accepted"}
            replace_record(path, PinRecord(record.salt, accepted, record.hsms))
            return True

    def _record_of(self, hsm_id: str, path: Path) -> PinRecord:
        """The record of a token, after the HSM id was noted in it. The caller holds the lock."""
        record = self._read(self._newest(hsm_id, path))
        if hsm_id not in record.hsms or not path.exists():
            record = msgspec.structs.replace(record, hsms=tuple(dict.fromkeys((*record.hsms, hsm_id))))
            replace_record(path, record)
        return record

    def _newest(self, hsm_id: str, path: Path) -> Path:
        """The record of a token, or that of an earlier release, by the HSM id."""
        former = self._path(hsm_id)
        return path if path.exists() or not former.exists() else former

    def _path(self, name: str) -> Path:
        return self._directory / f"pin-{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"

    @contextmanager
    def _locked(
        self,
        path: Path,
        wait: Callable[[], bool] | None,
        may_pass: Callable[[], bool] = lambda: False,
        purpose: str = "log-in attempts cannot be recorded, so none is made",
    ) -> Iterator[bool]:
        """Hold the lock of a record, or a second lock if the first is held for 10 s and ``may_pass()``.

        Yields whether it is the second. ``purpose`` begins the messages of errors.
        """
        if problem := self._lost():
            raise TokenUnavailable(f"{purpose}: {problem}")
        begun, second, seconds = time.monotonic(), False, 0.0
        while True:
            lock = file_lock(path.with_stem(f"{path.stem}-second") if second else path, seconds)
            seconds = _LOCK_ATTEMPT_SECONDS
            try:
                lock.__enter__()
                break
            except StateUnusable as error:
                busy = isinstance(error.__cause__ or error.__context__, BlockingIOError)
                waited = time.monotonic() - begun
                if not busy or not (waited < _LOCK_SECONDS if wait is None else wait()):
                    raise TokenUnavailable(f"{purpose}: {error}") from error
                second = not second and waited >= _HUNG_SECONDS and may_pass()
        try:
            yield second
        except StateUnusable as error:
            raise TokenUnavailable(f"{purpose}: {error}") from error
        finally:
            lock.__exit__(None, None, None)

    @staticmethod
    def _restore(path: Path, record: PinRecord, key: str, before: Pin | None) -> None:
        if before is None or before.outcome != "accepted":
            record_pin(path, record, key, before)

    def _hash(self, hsm_id: str, pin: Secret, salt: str) -> str:
        with self._hashing:
            known = self._hashes.get(hsm_id)
            if known is not None and (known[0], known[1].reveal()) == (salt, pin.reveal()):
                return known[2]
            digest = pin_hash(pin, salt)
            self._hashes[hsm_id] = (salt, pin, digest)
            return digest

    @staticmethod
    def _read(path: Path) -> PinRecord:
        """The record; a file that cannot be read stops the log-in."""
        try:
            return read_record(path) or PinRecord(secrets.token_hex(16), {})
        except StateUnusable as error:
            # Another file helps only if the system can read files.
            damaged = not isinstance(error.__cause__, OSError)
            way_out = "; replace it by an empty one with: xksproxy hsm allow-login ID" if damaged else ""
            raise TokenUnavailable(
                f"the record of log-ins cannot be read, so no log-in is tried: {error}{way_out}"
            ) from error


def _require_untried(hsm_id: str, pin: Pin | None) -> None:
    if pin is None:
        return
    allow = f"correct it, or allow another attempt with: xksproxy hsm allow-login {hsm_id}"
    if pin.outcome == "refused":
        raise LoginRefused(f"the PIN of HSM {hsm_id} was refused before and is not tried again; {allow}")
    if pin.outcome == "unresolved" and pin.unresolved >= _MAXIMUM_UNRESOLVED:
        raise LoginRefused(
            f"{pin.unresolved} log-ins to HSM {hsm_id} were cut off inside C_Login, so it is not known whether its PIN"
            f" is right, and it is not tried again; {allow}"
        )


def _require_pause(hsm_id: str, pin: Pin, now: float) -> None:
    """Raise TokenUnavailable during the pause after an attempt that was cut off."""
    pause = _PAUSE_SECONDS * 2 ** (pin.unresolved - 1)
    left = min(pause, pin.began + pause - now)  # the clock may have gone back
    if left > 0:
        raise TokenUnavailable(
            f"the last log-in to HSM {hsm_id} was cut off inside C_Login; the next attempt is made in {left:.0f} s"
        )
