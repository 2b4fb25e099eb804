"""How often each key has encrypted, and when it was last used. The count on record is never below the true count."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from xksproxy.decoding import convert
from xksproxy.state.state_file import MANIFEST, Document, StateFile, StateUnusable, write_together
from xksproxy.state.usage_names import UsageNames

_log: Final = logging.getLogger(__name__)
_LOCK_SECONDS: Final = 1.0
_RESERVE_LOCK_SECONDS: Final = 0.5
"""Short, because an HSM session may wait while a block is reserved."""

_FIRST_BLOCK: Final = 16
_GROWTH: Final = 4
_LARGEST_BLOCK: Final = 16_384
_BLOCK_SECONDS: Final = 10.0
"""A block that lasts less than this is followed by a larger one."""

_REMAINDER_DIVISOR: Final = 8
"""A block is at most this fraction of what remains up to the maximum."""

_RECORD_SECONDS: Final = 60.0
"""How often the time of last use is written while a key is in use."""

_REFUSED_SECONDS: Final = 1.0
"""For so long after a refusal, the record is not asked again."""

_CHECK_SECONDS: Final = 1.0
_RETURNED_TOGETHER: Final = 100
_CHECKED_AT_ONCE: Final = 100
_DIRECTORY: Final = "usage"


class LimitReached(Exception):
    """The key has reached its maximum number of encryptions."""


class KeyUsage(msgspec.Struct, frozen=True):
    """The record of the keys of one label on this machine. Times are Unix times in seconds."""

    label: str
    encryptions: Annotated[int, msgspec.Meta(ge=0)] = 0
    """C_Encrypt calls that were made, plus those that running processes have reserved."""

    last_encrypted: float | None = None
    last_decrypted: float | None = None


class _Reservation:
    """Encryptions that this process has put on record in advance, in blocks that grow with the traffic."""

    __slots__ = (
        "block",
        "closed",
        "maximum",
        "mutex",
        "recorded_at",
        "refilling",
        "refusal",
        "refused_at",
        "refused_maximum",
        "reserved_at",
        "top",
        "total",
        "unused",
    )

    def __init__(self) -> None:
        self.unused = 0
        """Reserved encryptions that were not made yet."""
        self.top = 0
        """The count on record after the last reservation."""
        self.maximum: int | None = None
        """The maximum number of encryptions when the last block was reserved."""
        self.total = 0
        """All encryptions that this process has reserved. The record must never show fewer."""
        self.closed = False
        """The unused encryptions were returned; no further block is reserved."""
        self.block = 0
        """Size of the last block."""
        self.reserved_at = 0.0
        self.recorded_at = 0.0
        """When the time of last use was last written."""
        self.refused_at = 0.0
        self.refusal: Exception | None = None
        """Why the last block could not be reserved."""
        self.refused_maximum: int | None = None
        """The maximum that was asked for then."""
        self.refilling = False
        self.mutex = threading.Lock()
        """Held while a block is reserved, so that two threads do not both reserve one."""

    def take(self, maximum: int | None) -> bool:
        """Use one reserved encryption, and return whether there was one below the maximum, which may have changed."""
        allowed = self.unused > 0 and (maximum is None or self.top - self.unused < maximum)
        if allowed:
            self.unused -= 1
        return allowed

    def refuses(self, maximum: int | None) -> bool:
        """Whether the last refusal is one for this maximum too."""
        if not isinstance(self.refusal, LimitReached):
            return self.refusal is not None
        return maximum is not None and self.refused_maximum is not None and maximum <= self.refused_maximum


class UsageBook:
    """Usage records by label, one file each, shared by the processes of a machine. Safe to use from any thread.

    All keys of one label share one count, on every token. So the count may be too high, but never too low. A key that
    has been named by its label and by its CKA_ID has one record; see ``names``.
    """

    def __init__(self, state_directory: Path) -> None:
        self.names = UsageNames(state_directory)
        self.directory = state_directory
        self._files: dict[str, StateFile] = {}
        self._checked_at = -math.inf
        self._looked_at: dict[str, tuple[tuple[int, ...] | None, KeyUsage]] = {}
        """The signature of each file, and what was read."""
        self._unchecked: list[str] = []
        self._problems: dict[str, str] = {}
        self.problem = ""
        """Why encryptions under a key cannot be counted. Empty if all records can be read."""
        self._lock = threading.Lock()
        self._reservations: dict[str, _Reservation] = {}
        self._decrypted_at: dict[str, float] = {}

    def read(self, label: str) -> KeyUsage:
        """The record of a label.

        Raises:
            StateUnusable: the record cannot be read.
        """
        counted_as = self.names.read(label)
        return _read(self._file(counted_as), counted_as)[0]

    def read_all(self) -> Iterator[KeyUsage]:
        """All records, in no particular order. Those that have not changed since they were read are not read again.

        Raises:
            StateUnusable: a record cannot be read.
        """
        for name in self._record_names(self.directory / _DIRECTORY):
            yield self._look_at(name)

    def check(self) -> None:
        """Look at 100 records in turn, at most once a second, and set ``problem``. Call it on a thread."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        before = self.problem
        try:
            self._check_some()
        except OSError as error:
            self.problem = f"{self.directory / MANIFEST / _DIRECTORY}: {error.strerror}"
        else:
            self.problem = next(iter(self._problems.values()), "")
        if self.problem and self.problem != before:
            _log.error("encryptions cannot be counted", extra={"fields": {"reason": self.problem}})

    def _check_some(self) -> None:
        if not self._unchecked:
            self._unchecked = list(self._record_names(self.directory / MANIFEST / _DIRECTORY))
        now, self._unchecked = self._unchecked[:_CHECKED_AT_ONCE], self._unchecked[_CHECKED_AT_ONCE:]
        for name in {*now, *self._problems}:
            try:
                self._look_at(name)
            except StateUnusable as error:
                self._problems[name] = str(error)
            else:
                self._problems.pop(name, None)

    def _look_at(self, name: str) -> KeyUsage:
        """A record, read if it has changed since it was last read (StateUnusable if it cannot be)."""
        file = self._file_named(name)
        signature = file.signature()
        known = self._looked_at.get(name)
        if known is None or signature is None or known[0] != signature:
            known = self._looked_at[name] = signature, _read(file, "")[0]
        return known[1]

    @staticmethod
    def _record_names(directory: Path) -> Iterator[str]:
        return (path.name for path in directory.glob("key-*.json"))

    def count_encryption(self, label: str, maximum: int | None) -> None:
        """Count one encryption before it is made. This may wait for the disk.

        Raises:
            LimitReached: the key has made ``maximum`` encryptions on this machine.
            StateUnusable: the encryption cannot be counted.
        """
        label = self.names.of(label)
        if not self._count_if_reserved(label, maximum):
            self._count_from_new_block(label, self._reservations.setdefault(label, _Reservation()), maximum)

    def count_if_reserved(self, label: str, maximum: int | None) -> bool:
        """Count one encryption if one is reserved, without waiting for the disk. Returns whether it was counted.

        When half of a block is used, a thread reserves the next one.
        """
        try:
            label = self.names.of(label)
        except StateUnusable:
            return False
        return self._count_if_reserved(label, maximum)

    def _count_if_reserved(self, label: str, maximum: int | None) -> bool:
        with self._lock:
            reservation = self._reservations.get(label) or self._reservations.setdefault(label, _Reservation())
            is_reserved = reservation.take(maximum)
            now = time.monotonic()
            refill = is_reserved and not reservation.refilling and self._needs_refill(reservation, now)
            reservation.refilling = reservation.refilling or refill
        if refill:
            threading.Thread(target=self._refill, args=(label, reservation, maximum), daemon=True).start()
        return is_reserved

    def record_decryption(self, label: str) -> None:
        """Record the time of a decryption, at most once a minute for a label, on a thread."""
        now = time.monotonic()
        if now - self._decrypted_at.get(label, -_RECORD_SECONDS) >= _RECORD_SECONDS:
            self._decrypted_at[label] = now
            threading.Thread(target=self._write_decryption_time, args=(label,), daemon=True).start()

    def nearly_used(self, share: float) -> list[str]:
        """The labels of which this process has seen that this share of the maximum is used, sorted."""
        with self._lock:
            reservations = list(self._reservations.items())
        return sorted(
            label
            for label, reservation in reservations
            if isinstance(reservation.refusal, LimitReached)
            or (reservation.maximum is not None and reservation.top >= share * reservation.maximum)
        )

    def return_unused(self, seconds: float = math.inf) -> None:
        """Subtract unused encryptions from the records. Call it when no encryption can follow.

        Those of many keys are written together. After so many seconds it goes no further, those with the most unused
        encryptions first: a count that is too high harms little.
        """
        end = time.monotonic() + seconds
        with self._lock:
            reservations, self._reservations = self._reservations, {}
        unused = {label: self._close(reservation) for label, reservation in reservations.items()}
        ordered = iter(sorted(filter(unused.get, unused), key=lambda label: -unused[label]))
        while (labels := list(islice(ordered, _RETURNED_TOGETHER))) and time.monotonic() < end:
            with suppress(StateUnusable):
                self._return({label: (reservations[label].total, unused[label]) for label in sorted(labels)})

    @staticmethod
    def _close(reservation: _Reservation) -> int:
        """Let no further block be reserved, and return the number of unused encryptions."""
        with reservation.mutex:
            unused, reservation.unused, reservation.closed = reservation.unused, 0, True
        return unused

    def _return(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Subtract from the records of some labels, with one sync. ``counts``: what was reserved, and what is unused.

        The labels are in order, so that two processes that wait for each other's locks cannot both wait for ever.
        """
        with ExitStack() as locks:
            changes: dict[StateFile, Document] = {}
            for label, (reserved, unused) in counts.items():
                file = self._file(label)
                with suppress(StateUnusable):
                    locks.enter_context(file.locked(_LOCK_SECONDS))
                    usage, document = _read(file, label, reserved)
                    changed = _later(usage, encryptions=usage.encryptions - unused)
                    changes[file] = {**document, **msgspec.to_builtins(changed)}
            if changes:
                write_together(changes)

    @staticmethod
    def _needs_refill(reservation: _Reservation, now: float) -> bool:
        low = 2 * reservation.unused < reservation.block and not _recently_refused(reservation, now)
        return low or now - reservation.recorded_at >= _RECORD_SECONDS

    def _refill(self, label: str, reservation: _Reservation, maximum: int | None) -> None:
        with suppress(StateUnusable, LimitReached), reservation.mutex:
            if reservation.closed:
                return
            if 2 * reservation.unused < reservation.block:
                self._reserve_block(label, reservation, maximum)
            else:
                reservation.recorded_at = time.monotonic()
                self._update_record(label, reserved=reservation.total, last_encrypted=time.time())
        reservation.refilling = False

    def _count_from_new_block(self, label: str, reservation: _Reservation, maximum: int | None) -> None:
        with reservation.mutex:
            while True:
                with self._lock:
                    if reservation.take(maximum):
                        return
                refusal = reservation.refusal
                if refusal and _recently_refused(reservation, time.monotonic()) and reservation.refuses(maximum):
                    raise type(refusal)(*refusal.args)
                self._reserve_block(label, reservation, maximum)

    def _reserve_block(self, label: str, reservation: _Reservation, maximum: int | None) -> None:
        now = time.monotonic()
        block = _next_block(reservation, now)
        try:
            size, top = self._add_to_record(label, block, maximum, reservation.total)
        except (LimitReached, StateUnusable) as error:
            # The time after the wait for the lock, so that waiting threads do not each wait for as long.
            if isinstance(error, StateUnusable) and str(error) != str(reservation.refusal):
                _log.error("encryptions cannot be counted", extra={"fields": {"label": label, "reason": str(error)}})
            reservation.refusal, reservation.refused_at = error, time.monotonic()
            reservation.refused_maximum = maximum
            raise
        with self._lock:
            reservation.unused += size
            reservation.total += size
            reservation.top, reservation.maximum = top, maximum
            reservation.block, reservation.refusal = block, None
            reservation.reserved_at = reservation.recorded_at = now

    def _add_to_record(self, label: str, block: int, maximum: int | None, reserved: int) -> tuple[int, int]:
        """Add a block to the record, and return its size and the count with it.

        Near the maximum a block is smaller, so that no process holds much of what remains. ``reserved`` is what this
        process has added before.
        """
        file = self._file(label)
        with file.locked(_RESERVE_LOCK_SECONDS):
            usage, document = _read(file, label, reserved)
            if maximum is not None:
                remaining = maximum - usage.encryptions
                if remaining <= 0:
                    raise LimitReached(label)
                block = min(block, max(1, remaining // _REMAINDER_DIVISOR))
            counted = _later(usage, encryptions=usage.encryptions + block, last_encrypted=time.time())
            file.write({**document, **msgspec.to_builtins(counted)})
        if maximum is not None and not (reserved and _reached_half(usage, maximum)) and _reached_half(counted, maximum):
            _log.warning(
                "key has made half of its maximum number of encryptions",
                extra={"fields": {"label": label, "encryptions": counted.encryptions, "maximum": maximum}},
            )
        return block, counted.encryptions

    def _write_decryption_time(self, label: str) -> None:
        with suppress(StateUnusable):
            self._update_record(self.names.of(label), last_decrypted=time.time())

    def _update_record(self, label: str, *, reserved: int = 0, **times: float) -> None:
        file = self._file(label)
        with file.locked(_LOCK_SECONDS):
            usage, document = _read(file, label, reserved)
            changed = _later(usage, encryptions=usage.encryptions, **times)
            file.write({**document, **msgspec.to_builtins(changed)})

    def _file(self, label: str) -> StateFile:
        return self._file_named(f"key-{_file_name(label)}.json")

    def _file_named(self, name: str) -> StateFile:
        return self._files.setdefault(name, StateFile(self.directory, f"{_DIRECTORY}/{name}"))


def _reached_half(usage: KeyUsage, maximum: int) -> bool:
    return 2 * usage.encryptions >= maximum


def _recently_refused(reservation: _Reservation, now: float) -> bool:
    return reservation.refusal is not None and now - reservation.refused_at < _REFUSED_SECONDS


def _next_block(reservation: _Reservation, now: float) -> int:
    """The size of the next block. It grows while a block lasts less than 10 s, so that a busy key rarely waits."""
    if not reservation.block:
        return _FIRST_BLOCK
    if now - reservation.reserved_at < _BLOCK_SECONDS:
        return min(_LARGEST_BLOCK, reservation.block * _GROWTH)
    return reservation.block


def _read(file: StateFile, label: str, reserved: int = 0) -> tuple[KeyUsage, Document]:
    """The record, and the document with it. A record with fewer than ``reserved`` encryptions was replaced."""
    document = file.read()
    if document is None:
        return KeyUsage(label), {}
    try:
        usage = convert(document, KeyUsage)
    except msgspec.MsgspecError as error:
        raise StateUnusable(f"{file.path}: {error}") from error
    if usage.encryptions < reserved:
        raise StateUnusable(f"{file.path}: it was replaced, and its count is lost; restore the file")
    return usage, document


def _later(usage: KeyUsage, *, encryptions: int, **times: float) -> KeyUsage:
    """The record with another count and with new times. A time never goes back, as the clock may."""
    latest = {name: max(at, getattr(usage, name) or 0.0) for name, at in times.items()}
    return msgspec.structs.replace(usage, encryptions=encryptions, **latest)


def _file_name(label: str) -> str:
    """The label if it makes a short file name, else its start and a digest."""
    name = quote(label, safe="")
    longest = 150
    return name if len(name) <= longest else f"{name[:100]}-{hashlib.sha256(label.encode()).hexdigest()}"
