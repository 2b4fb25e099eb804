"""The mark that a state directory is in doubt: something outside knows of a newer one."""

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.encoding import encode_json
from xksproxy.state.state_file import StateUnusable, UnixTime, read_json, replace_file

_log: Final = logging.getLogger(__name__)

FILE_NAME: Final = "doubt.json"
HOW_TO_SETTLE: Final = (
    "stop the proxy; put the newest copy of the whole directory in the place of this one, or merge a backup with"
    " xksproxy state restore FILE, or, if there is neither, xksproxy state accept"
)


class StateInDoubt(StateUnusable):
    """The state directory may be an older copy, or may have been lost, so nothing in it may be opened."""


class Doubt(msgspec.Struct, frozen=True):
    """Why the directory is in doubt."""

    reason: str
    since: UnixTime
    """Unix time in seconds."""

    witness_at: UnixTime = 0.0
    """When what is known outside of the directory was changed. It may be in the future, if the clock was ahead."""


def read_doubt(state_directory: Path) -> str:
    """Why the directory is in doubt, also if the mark itself cannot be read; empty if it is not."""
    try:
        doubt = read_json(state_directory / FILE_NAME, Doubt)
    except StateUnusable as error:
        return str(error)
    return "" if doubt is None else text_of(doubt)


def text_of(doubt: Doubt) -> str:
    """The reason of a doubt, and how to settle it."""
    return f"{doubt.reason}; {HOW_TO_SETTLE}"


def keep_doubt(state_directory: Path, known: Doubt | None) -> Doubt | None:
    """Return the mark of a directory, or else ``known``, which was read before: then the mark is set again.

    Raises:
        StateUnusable: the mark cannot be read.
    """
    found = read_json(state_directory / FILE_NAME, Doubt)
    if found is None and known is not None:
        with suppress(StateUnusable):  # it is tried again
            replace_file(state_directory / FILE_NAME, encode_json(known))
    return found or known


def begin_doubt(state_directory: Path, reason: str, witness_at: float = 0.0) -> str:
    """Log and mark that a directory is in doubt, if the mark can be written. Returns what :func:`read_doubt` would."""
    text = f"{reason}; {HOW_TO_SETTLE}"
    _log.error("state directory in doubt", extra={"fields": {"reason": text}})
    with suppress(StateUnusable):  # then each worker notices it by itself
        mark_doubt(state_directory, reason, witness_at)
    return text


def mark_doubt(state_directory: Path, reason: str, witness_at: float = 0.0) -> None:
    """Mark the directory, unless it is marked (StateUnusable if that fails)."""
    if not read_doubt(state_directory):
        replace_file(state_directory / FILE_NAME, encode_json(Doubt(reason, time.time(), witness_at)))


def settled_at(state_directory: Path, now: float) -> float:
    """The time from which on a directory counts that is settled ``now``: no earlier than what its witness knows."""
    with suppress(StateUnusable):
        doubt = read_json(state_directory / FILE_NAME, Doubt)
        return now if doubt is None else max(now, doubt.witness_at)
    return now


def remove_doubt(state_directory: Path) -> None:
    """Remove the mark, because the doubt is settled (OSError if that fails)."""
    with suppress(FileNotFoundError):
        (state_directory / FILE_NAME).unlink()
