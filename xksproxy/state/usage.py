"""How often each key has encrypted, and when it was last used. The count on record is never below the true count."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xksproxy.state.reservation import LimitReached, Reservation
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage_names import UsageNames
from xksproxy.state.usage_records import KeyUsage, UsageRecords

_log: Final = logging.getLogger(__name__)
_RETURNED_TOGETHER: Final = 100
_LEAST_LEFT_AHEAD: Final = 1_000_000
_DECRYPTION_SECONDS: Final = 60.0
"""How often the time of the last decryption is written while a key is in use."""


class UsageBook:
    """Usage records by label, one file each, shared by the processes of a machine. Safe to use from any thread.

    All keys of one label share one count, on every token. So the count may be too high, but never too low. A key that
    has been named by its label and by its CKA_ID has one record; see ``names``.
    """

    def __init__(
        self,
        state_directory: Path,
        unanswered: Callable[[], str] = str,
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """``unanswered`` returns why no call should wait for the directory; empty if nothing is known against it.

        ``known`` has the revisions that records have had while the proxy ran.
        """
        self._unanswered = unanswered
        self.names = UsageNames(state_directory, known)
        self.records = UsageRecords(state_directory, known)
        self.directory = state_directory
        self._lock = threading.Lock()
        self._reservations: dict[str, Reservation] = {}
        self._decrypted_at: dict[str, float] = {}

    @property
    def revisions(self) -> dict[str, int]:
        """The highest revisions that the files are known to have had, by their paths in the state directory."""
        return {**self.names.revisions, **self.records.revisions}

    @property
    def generation(self) -> int:
        """Grows when one of them has changed."""
        return self.records.generation + sum(self.names.revisions.values())

    def read(self, label: str) -> KeyUsage:
        """The record of a label.

        Raises:
            StateUnusable: the record cannot be read.
        """
        return self.records.read(self.names.read(label))

    def has_record(self, label: str) -> bool:
        """Whether a label has a record (StateUnusable if that is not known)."""
        return self.records.has(self.names.read(label))

    def begin(self, label: str) -> None:
        """Record a key that is made now, so that it counts as new also where others without a record do not.

        Raises:
            StateUnusable: the record cannot be read or written.
        """
        self.records.begin(self.names.read(label))

    def count_encryption(self, label: str, maximum: int | None) -> None:
        """Count one encryption before it is made. This may wait for the disk.

        Raises:
            LimitReached: the key has made ``maximum`` encryptions on this machine.
            StateUnusable: the encryption cannot be counted.
        """
        if reason := self._unanswered():
            raise StateUnusable(reason)
        label = self.names.of(label)
        if not self._count_if_reserved(label, maximum):
            self._count_from_new_block(label, self._reservations.setdefault(label, Reservation()), maximum)

    def count_if_reserved(self, label: str, maximum: int | None) -> bool:
        """Count one encryption if one is reserved, without waiting for the disk. Returns whether it was counted.

        When half of a block is used, a thread reserves the next one.
        """
        counted_as = self.names.known(label)
        return counted_as is not None and self._count_if_reserved(counted_as, maximum)

    def _count_if_reserved(self, label: str, maximum: int | None) -> bool:
        with self._lock:
            reservation = self._reservations.get(label) or self._reservations.setdefault(label, Reservation())
            is_reserved = reservation.take(maximum)
            now = time.monotonic()
            refill = is_reserved and not reservation.refilling and reservation.needs_refill(now)
            reservation.refilling = reservation.refilling or refill
        if refill and not _try_to_start(self._refill, label, reservation, maximum):
            with self._lock:
                reservation.refilling = False  # the next encryption tries again
        return is_reserved

    def reserve_ahead(self, label: str, maximum: int) -> None:
        """Reserve the first block of a key before an encryption is asked for, so that none waits for the disk.

        ``label`` is that of the record. Nothing is reserved if that fails, or if the block would be a noticeable part
        of what remains. Waits for the disk.
        """
        with self._lock:
            reservation = self._reservations.setdefault(label, Reservation())
        with suppress(StateUnusable, LimitReached), reservation.mutex:
            self.names.of(label)
            is_first = not reservation.total and not reservation.closed
            if is_first and maximum - self.records.read(label).encryptions >= _LEAST_LEFT_AHEAD:
                self._reserve_block(label, reservation, maximum, ahead=True)

    def record_decryption(self, label: str) -> None:
        """Record the time of a decryption, at most once a minute for a label, on a thread."""
        now = time.monotonic()
        if now - self._decrypted_at.get(label, -_DECRYPTION_SECONDS) >= _DECRYPTION_SECONDS:
            self._decrypted_at[label] = now
            _try_to_start(self._write_decryption_time, label)  # or again after a minute

    def note_reached(self, label: str, encryptions: int, maximum: int) -> None:
        """Note the count on the record of a label, of which :meth:`nearly_used` knows nothing before it is used."""
        with self._lock:
            self._reservations.setdefault(label, Reservation()).note(encryptions, maximum)

    def nearly_used(self, share: float) -> dict[str, int]:
        """The counts of which this process has seen that they reach this share of a maximum, by label.

        Key stores that share a label may each have another maximum.
        """
        with self._lock:
            reservations = list(self._reservations.items())
        return {
            label: reservation.reached
            for label, reservation in sorted(reservations, key=lambda item: item[0])
            if reservation.lowest_maximum is not None and reservation.reached >= share * reservation.lowest_maximum
        }

    def return_unused(self, seconds: float = math.inf) -> None:
        """Subtract unused encryptions from the records. Call it when no encryption can follow.

        Those of many keys are written together. After so many seconds it goes no further, those with the most unused
        encryptions first: a count that is too high harms little.
        """
        end = time.monotonic() + seconds
        with self._lock:
            reservations, self._reservations = self._reservations, {}
        unused = {label: reservation.close() for label, reservation in reservations.items()}
        ordered = iter(sorted(filter(unused.get, unused), key=lambda label: -unused[label]))
        while (labels := list(islice(ordered, _RETURNED_TOGETHER))) and time.monotonic() < end:
            with suppress(StateUnusable):
                self.records.subtract({label: (reservations[label].total, unused[label]) for label in sorted(labels)})

    def _refill(self, label: str, reservation: Reservation, maximum: int | None) -> None:
        with suppress(StateUnusable, LimitReached), reservation.mutex:
            if reservation.closed:
                return
            if reservation.low:
                self._reserve_block(label, reservation, maximum)
            else:
                reservation.note_recorded()
                self.records.set_times(label, reserved=reservation.total, last_encrypted=time.time())
        reservation.refilling = False

    def _count_from_new_block(self, label: str, reservation: Reservation, maximum: int | None) -> None:
        with reservation.mutex:
            while True:
                with self._lock:
                    if reservation.take(maximum):
                        return
                if refusal := reservation.recent_refusal(maximum):
                    raise type(refusal)(*refusal.args)
                self._reserve_block(label, reservation, maximum)

    def _reserve_block(self, label: str, reservation: Reservation, maximum: int | None, *, ahead: bool = False) -> None:
        now = time.monotonic()
        block = reservation.next_block(now)
        try:
            size, top = self.records.add(label, block, maximum, reservation.total, ahead=ahead)
        except (LimitReached, StateUnusable) as error:
            if isinstance(error, StateUnusable) and str(error) != str(reservation.refusal):
                _log.error("encryptions cannot be counted", extra={"fields": {"label": label, "reason": str(error)}})
            reservation.refuse(error, maximum)
            raise
        with self._lock:
            reservation.add(block, size, top, maximum, now)

    def _write_decryption_time(self, label: str) -> None:
        with suppress(StateUnusable):
            self.records.set_times(self.names.of(label), last_decrypted=time.time())


def _try_to_start(target: Callable[..., object], *arguments: object) -> bool:
    """Run something on a thread. False if the system starts no more threads, which is no reason to fail a request."""
    try:
        threading.Thread(target=target, args=arguments, daemon=True).start()
    except RuntimeError:
        return False
    return True
