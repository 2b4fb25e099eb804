"""The records of how often keys have encrypted and when they were used: one file for the keys of a label."""

import hashlib
import heapq
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from xksproxy.decoding import convert
from xksproxy.state.reservation import LimitReached
from xksproxy.state.state_file import MANIFEST, Document, StateFile, StateUnusable, UnixTime, write_together
from xksproxy.state.state_number import unrecorded_encryptions

_log: Final = logging.getLogger(__name__)
_LOCK_SECONDS: Final = 1.0
_RESERVE_LOCK_SECONDS: Final = 0.5
"""Short, because an HSM session may wait while a block is reserved."""

_REMAINDER_DIVISOR: Final = 8
"""A block is at most this fraction of what remains up to the maximum."""

_LARGEST_FIRST_BLOCK: Final = 1_024
_COUNT_DIVISOR: Final = 64
_FIRST_REMAINDER_DIVISOR: Final = 65_536
"""The first block is at most this fraction of what remains, because a killed process loses what it has reserved."""

_WARNED_PERCENT: Final = (50, 80, 95, 100)
_CHECK_SECONDS: Final = 1.0
_CHECKED_AT_ONCE: Final = 100
_DIRECTORY: Final = "usage"


class KeyUsage(msgspec.Struct, frozen=True):
    """The record of the keys of one label on this machine. Times are Unix times in seconds."""

    label: str
    encryptions: Annotated[int, msgspec.Meta(ge=0)] = 0
    """C_Encrypt calls that were made, plus those that running processes have reserved."""

    last_encrypted: UnixTime | None = None
    last_decrypted: UnixTime | None = None


class UsageRecords:
    """The records of a state directory. Methods wait for the disk, and for other processes where they write."""

    def __init__(self, state_directory: Path, known: Mapping[str, int] = MappingProxyType({})) -> None:
        """``known`` has revisions that records are known to have had, as :attr:`revisions` of another process."""
        self._directory = state_directory
        self._files: dict[str, StateFile] = {}
        self._checked_at = -math.inf
        self._looked_at: dict[str, tuple[tuple[int, ...] | None, KeyUsage]] = {}
        """The signature of each file, and what was read."""
        self._unchecked: list[str] = []
        self._problems: dict[str, str] = {}
        self.problem = ""
        """Why encryptions under a key cannot be counted. Empty if all records can be read."""
        self.generation = 0
        """Grows when a revision may have changed."""
        for path, revision in known.items():
            directory, _, name = path.partition("/")
            if directory == _DIRECTORY:
                self._file_named(name).note_written(revision)

    @property
    def revisions(self) -> dict[str, int]:
        """The highest revision of each record that this process has seen, by its path in the state directory."""
        files = [(name, file.revision) for name, file in list(self._files.items())]
        return {f"{_DIRECTORY}/{name}": revision for name, revision in files if revision > 0}

    def read(self, label: str) -> KeyUsage:
        """The record of a label.

        Raises:
            StateUnusable: the record cannot be read.
        """
        return self._read(self._file(label), label)[0]

    def has(self, label: str) -> bool:
        """Whether a label has a record (StateUnusable if that is not known)."""
        return self._file(label).read_as(_usage_of) is not None

    def begin(self, label: str) -> None:
        """Record that a key is new, and has made no encryption, unless the label has a record.

        Raises:
            StateUnusable: the record cannot be read or written.
        """
        file = self._file(label)
        with file.locked(_LOCK_SECONDS):
            if file.read_as(_usage_of) is None:
                self._write(file, {}, KeyUsage(label))

    def read_all(self) -> Iterator[KeyUsage]:
        """All records, in no particular order. Those that have not changed since they were read are not read again.

        Raises:
            StateUnusable: a record cannot be read.
        """
        for name in self._record_names(self._directory / _DIRECTORY):
            yield self._look_at(name)

    def recent(self, seconds: float, most: int) -> list[KeyUsage]:
        """At most so many records of keys that encrypted in the last ``seconds``, the newest first.

        Raises:
            StateUnusable: a record cannot be read.
        """
        files = [self._directory / _DIRECTORY / name for name in self._record_names(self._directory / _DIRECTORY)]
        newest = heapq.nlargest(most, files, key=_changed_at)
        records = [self._look_at(file.name) for file in newest]
        earliest = time.time() - seconds
        return [record for record in records if (record.last_encrypted or 0.0) >= earliest]

    def check(self) -> None:
        """Look at 100 records in turn, at most once a second, and set ``problem``."""
        now = time.monotonic()
        if now - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = now
        before = self.problem
        try:
            self._check_some()
        except OSError as error:
            self.problem = f"{self._directory / MANIFEST / _DIRECTORY}: {error.strerror}"
        else:
            self.problem = next(iter(self._problems.values()), "")
        if self.problem and self.problem != before:
            _log.error("encryptions cannot be counted", extra={"fields": {"reason": self.problem}})

    def add(
        self, label: str, block: int, maximum: int | None, reserved: int, *, ahead: bool = False
    ) -> tuple[int, int]:
        """Add a block of encryptions, and return its size and the count with it.

        Near the maximum a block is smaller, so that no process holds much of what remains. The first block of a
        process is larger for a key that has encrypted often, so that a busy key does not wait for the disk several
        times. ``reserved`` is what this process has added before. ``ahead``: no encryption was asked for yet.

        Raises:
            LimitReached: the maximum is reached.
            StateUnusable: the record cannot be read or written.
        """
        file = self._file(label)
        with file.locked(_RESERVE_LOCK_SECONDS):
            usage, document = self._read(file, label, reserved)
            if maximum is not None:
                remaining = maximum - usage.encryptions
                if remaining <= 0:
                    raise LimitReached(label)
                block = min(block, max(1, remaining // _REMAINDER_DIVISOR))
                if not reserved:
                    block = max(block, _first_block(usage.encryptions, remaining))
            times = {} if ahead else {"last_encrypted": time.time()}
            counted = _later(usage, encryptions=usage.encryptions + block, **times)
            self._write(file, document, counted)
        if maximum is not None:
            # A process that begins to use a key warns even if another one did before.
            before = usage.encryptions if reserved else 0
            _warn_near_limit(label, before, counted.encryptions, maximum)
        return block, counted.encryptions

    def subtract(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Subtract from the records of some labels, with one sync. ``counts``: what was reserved, and what is unused.

        The labels are in order, so that two processes that wait for each other's locks cannot both wait for ever.
        """
        with ExitStack() as locks:
            changes: dict[StateFile, Document] = {}
            for label, (reserved, unused) in counts.items():
                file = self._file(label)
                with suppress(StateUnusable):
                    locks.enter_context(file.locked(_LOCK_SECONDS))
                    usage, document = self._read(file, label, reserved)
                    changed = _later(usage, encryptions=usage.encryptions - unused)
                    changes[file] = {**document, **msgspec.to_builtins(changed)}
            if changes:
                write_together(changes)

    def set_times(self, label: str, *, reserved: int = 0, **times: float) -> None:
        """Set times of last use. ``reserved`` is what this process has added to the count.

        Raises:
            StateUnusable: the record cannot be read or written.
        """
        file = self._file(label)
        with file.locked(_LOCK_SECONDS):
            usage, document = self._read(file, label, reserved)
            self._write(file, document, _later(usage, encryptions=usage.encryptions, **times))

    def _check_some(self) -> None:
        if not self._unchecked:
            # Those without a record too: both may have been removed.
            seen = {name for name, file in list(self._files.items()) if file.revision >= 0}
            self._unchecked = [*seen.union(self._record_names(self._directory / MANIFEST / _DIRECTORY))]
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
            known = self._looked_at[name] = signature, self._read(file, "")[0]
            self.generation += 1
        return known[1]

    def _read(self, file: StateFile, label: str, reserved: int = 0) -> tuple[KeyUsage, Document]:
        """The record, and the document with it. A record with fewer than ``reserved`` encryptions was replaced."""

        def converted(document: Document) -> KeyUsage:
            usage = _usage_of(document)
            if usage.encryptions < reserved:
                raise StateUnusable(f"{file.path}: it was replaced, and its count is lost; restore the file")
            return usage

        return file.read_as(converted) or (KeyUsage(label, unrecorded_encryptions(self._directory)), {})

    def _write(self, file: StateFile, document: Document, usage: KeyUsage) -> None:
        file.write({**document, **msgspec.to_builtins(usage)})
        self.generation += 1

    @staticmethod
    def _record_names(directory: Path) -> Iterator[str]:
        return (path.name for path in directory.glob("key-*.json"))

    def _file(self, label: str) -> StateFile:
        return self._file_named(f"key-{_file_name(label)}.json")

    def _file_named(self, name: str) -> StateFile:
        return self._files.setdefault(name, StateFile(self._directory, f"{_DIRECTORY}/{name}"))


def _usage_of(document: Document) -> KeyUsage:
    return convert(document, KeyUsage)


def _first_block(encryptions: int, remaining: int) -> int:
    return min(_LARGEST_FIRST_BLOCK, encryptions // _COUNT_DIVISOR, remaining // _FIRST_REMAINDER_DIVISOR)


def _changed_at(file: Path) -> float:
    """When it was changed; 0 if it is gone."""
    with suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def _warn_near_limit(label: str, before: int, after: int, maximum: int) -> None:
    """Log a warning if the count has reached another of the percentages at which an operator should know."""
    reached = [percent for percent in _WARNED_PERCENT if 100 * before < percent * maximum <= 100 * after]
    if reached:
        fields = {"label": label, "encryptions": after, "maximum": maximum, "percent": reached[-1]}
        _log.warning("key nears its maximum number of encryptions", extra={"fields": fields})


def _later(usage: KeyUsage, *, encryptions: int, **times: float) -> KeyUsage:
    """The record with another count and with new times. A time never goes back, as the clock may."""
    latest = {name: max(at, getattr(usage, name) or 0.0) for name, at in times.items()}
    return msgspec.structs.replace(usage, encryptions=encryptions, **latest)


def _file_name(label: str) -> str:
    """The label if it makes a short file name, else its start and a digest."""
    name = quote(label, safe="")
    longest = 150
    return name if len(name) <= longest else f"{name[:100]}-{hashlib.sha256(label.encode()).hexdigest()}"
