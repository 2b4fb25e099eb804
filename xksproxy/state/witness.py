"""What is known of a state directory outside of it, and the comparison of both."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from xksproxy.state.state_file import StateUnusable, UnixTime
from xksproxy.state.state_number import NumberRecord, StateNumber


class Witness(msgspec.Struct, frozen=True):
    """What is known of a state directory at one moment."""

    state_id: str
    state_number: int
    state_at: UnixTime
    """When the number was raised, in Unix time in seconds."""

    state_directory: str


class Contradiction(NamedTuple):
    """Why a directory is not the newest."""

    reason: str = ""
    """Empty if it may be the newest."""

    witness_at: float = 0.0
    """When the newest one of which the source knows was changed, in Unix time by the clock of then."""

    def __bool__(self) -> bool:
        return bool(self.reason)


def contradiction(state_directory: Path, newest: Callable[[str], Witness | None], source: str) -> Contradiction:
    """Say why a directory is not the newest of which ``source`` knows, if it is not.

    ``newest`` returns what is known of the directory with an id, or else of the directory at this place. The id is
    empty if the directory has none.
    """
    number = StateNumber(state_directory)
    try:
        before = number.read()
        witness = newest("" if before is None else before[1].id)
        found = number.read()  # again: a proxy that runs may have raised it before it told the witness
    except StateUnusable as error:
        return Contradiction(str(error))
    difference = "" if witness is None or _is_settled(witness, found) else _difference(witness, found)
    if witness is None or not difference:
        return Contradiction()
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(witness.state_at))
    knows = f"{source} knows number {witness.state_number} of {at}"
    reason = f"the state directory {state_directory.resolve()} {difference} {knows}"
    return Contradiction(reason, witness.state_at)


def _difference(witness: Witness, found: tuple[int, NumberRecord] | None) -> str:
    """What is wrong with the directory, as the beginning of a sentence; empty if it may be the newest."""
    if found is None:
        return "has no number, as after a loss, but"
    number, record = found
    if record.id != witness.state_id:
        return "is another one than that of which"
    if number < witness.state_number:
        return f"is an older copy: it has number {number}, but"
    if number == witness.state_number and record.at != witness.state_at:
        return f"was an older copy: it got its number {number} at another time, but"
    return ""


def _is_settled(witness: Witness, found: tuple[int, NumberRecord] | None) -> bool:
    """Whether the directory was restored or accepted after that of the witness. It has another id since then.

    Within one id the number counts, whatever the clock was.
    """
    return found is not None and witness.state_id != found[1].id and witness.state_at <= found[1].settled_at
