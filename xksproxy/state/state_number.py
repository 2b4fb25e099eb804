"""The number of a state directory. It grows, so that an older copy of the directory can be told from the newest one."""

import os
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from xksproxy.decoding import convert
from xksproxy.state.state_file import MANIFEST, Document, StateFile, StateUnusable, UnixTime

FILE_NAME: Final = "number.json"
_LOCK_SECONDS: Final = 1.0


class NumberRecord(msgspec.Struct, frozen=True):
    """What the file holds, besides its revision, which is the number."""

    id: str
    """Random, made with the directory. A directory that is restored gets another one."""

    at: UnixTime
    """When the number was raised last, in Unix time in seconds."""

    settled_at: UnixTime = 0.0
    """When the directory was restored or accepted. What was known of it before does not count any more."""

    unrecorded: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The count of encryptions of a key that has no record: after a loss, it may have made as many."""


class StateNumber:
    """The number of one state directory. The methods wait for the disk."""

    def __init__(self, state_directory: Path, least: int = -1) -> None:
        """``least`` is a number that the directory is known to have had; -1 if none is known."""
        self._file = StateFile(state_directory, FILE_NAME)
        self._file.note_written(least)
        self._signature: tuple[int, ...] | None = None

    @property
    def newest(self) -> int:
        """The highest number that this process knows of; -1 if it knows of none."""
        return self._file.revision

    def follow(self) -> None:
        """Read the number if the file was replaced since the last call. It waits for the disk.

        Raises:
            StateUnusable: the file cannot be read.
            StateWentBack: it was deleted, or has a lower number than before.
        """
        signature = self._file.signature()
        if signature is None or signature != self._signature:
            self._file.read_as(_record_of)
            self._signature = signature

    def read(self) -> tuple[int, NumberRecord] | None:
        """The number and its record; None if the directory has none yet.

        Raises:
            StateUnusable: the file cannot be read, was deleted, or is an older copy.
        """
        found = self._file.read_as(_record_of)
        return None if found is None else (self._file.revision, found[0])

    def advance(self) -> tuple[int, NumberRecord]:
        """Raise the number by one, and return it.

        Raises:
            StateUnusable: the file cannot be read or written.
        """
        now = time.time()
        with self._file.locked(_LOCK_SECONDS):
            record, document = self._file.read_as(_record_of) or (NumberRecord(new_id(), now), {})
            record = msgspec.structs.replace(record, at=now)
            self._file.write({**document, **msgspec.to_builtins(record)})
        return self._file.revision, record


def _record_of(document: Document) -> NumberRecord:
    return convert(document, NumberRecord)


def manifest_problem(state_directory: Path) -> str:
    """Why the manifest or the number is not the one that the directory had; empty if both may be.

    Without the manifest, a file that is missing would count as never written. The first number may lack its record,
    if its writer was killed.
    """
    file = StateFile(state_directory, FILE_NAME)
    try:
        if file.read() is None or file.revision <= 1 or file.recorded() is not None:
            return ""
    except StateUnusable as error:
        return str(error)
    return f"the {MANIFEST} of the state directory {state_directory} was lost, so other files may be missing too"


def unrecorded_encryptions(state_directory: Path) -> int:
    """The count of encryptions of a key that has no record (StateUnusable if it cannot be read)."""
    found = StateNumber(state_directory).read()
    return 0 if found is None else found[1].unrecorded


def settled(document: dict[str, Any], now: float, settled_at: float, unrecorded: int) -> Document:
    """The document of a directory that was restored ``now``, so that what was known before ``settled_at`` is settled.

    Each key without a record has ``unrecorded`` more.
    """
    count = document["unrecorded"] + unrecorded
    return {**document, "id": new_id(), "at": now, "settled_at": settled_at, "unrecorded": count}


def new_id() -> str:
    """A random id of a state directory."""
    return os.urandom(8).hex()
