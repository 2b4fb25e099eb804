"""The number of a state directory. It grows, so that an older copy of the directory can be told from the newest one."""

import os
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from xksproxy.decoding import convert
from xksproxy.state.state_file import Document, StateFile

FILE_NAME: Final = "number.json"
_LOCK_SECONDS: Final = 1.0


class NumberRecord(msgspec.Struct, frozen=True):
    """What the file holds, besides its revision, which is the number."""

    id: str
    """Random, made with the directory. A directory that is restored gets another one."""

    at: float
    """When the number was raised last, in Unix time in seconds."""

    settled_at: float = 0.0
    """When the directory was restored or accepted. What was known of it before does not count any more."""

    unrecorded: Annotated[int, msgspec.Meta(ge=0)] = 0
    """The count of encryptions of a key that has no record: after a loss, it may have made as many."""


class StateNumber:
    """The number of one state directory. The methods wait for the disk."""

    def __init__(self, state_directory: Path) -> None:
        self._file = StateFile(state_directory, FILE_NAME)

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


def unrecorded_encryptions(state_directory: Path) -> int:
    """The count of encryptions of a key that has no record (StateUnusable if it cannot be read)."""
    found = StateNumber(state_directory).read()
    return 0 if found is None else found[1].unrecorded


def settled(document: dict[str, Any], now: float, unrecorded: int) -> Document:
    """The document of a directory that was restored at ``now``. Each key without a record has ``unrecorded`` more."""
    count = document["unrecorded"] + unrecorded
    return {**document, "id": new_id(), "at": now, "settled_at": now, "unrecorded": count}


def new_id() -> str:
    """A random id of a state directory."""
    return os.urandom(8).hex()
