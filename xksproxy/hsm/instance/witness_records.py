"""What the tokens know of state directories: one small data object for each machine."""

import math
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.state.witness import Contradiction, Witness, contradiction

LABEL: Final = "xksproxy-state"
"""CKA_LABEL of the objects."""


class Record(NamedTuple):
    """One object on a token."""

    handle: int
    witness: Witness | None
    """None if it cannot be decoded."""

    @property
    def number(self) -> int:
        """The number of the state directory."""
        return -1 if self.witness is None else self.witness.state_number

    def is_of(self, state_id: str) -> bool:
        """Whether it is about the state directory with an id."""
        return self.witness is not None and self.witness.state_id == state_id

    @property
    def age(self) -> float:
        """The seconds since the number was raised; infinite if that cannot be known, as after the clock went back."""
        seconds = -1.0 if self.witness is None else time.time() - self.witness.state_at
        return seconds if seconds >= 0 else math.inf


def read_records(session: HsmSession) -> list[Record]:
    """The objects of all machines on the token of a session.

    Raises:
        HsmError: this kind of module keeps none.
        CryptokiError: the token refuses, or fails.
    """
    return [Record(handle, _decoded(value)) for handle, value in session.data_objects(LABEL).read().items()]


def doubt_by_token(state_directory: Path, hsm_id: str, records: Iterable[Record]) -> Contradiction:
    """Why a state directory is in doubt by what a token knows of it, if it is. The disk is read last.

    What the token knows of the directory with this id counts. If it knows nothing of it, that of this machine and path
    counts.
    """
    known = [item.witness for item in records if item.witness is not None]
    here = place_of(state_directory)

    def newest(state_id: str) -> Witness | None:
        own = [witness for witness in known if witness.state_id == state_id]
        if own:
            return max(own, key=lambda witness: witness.state_number)
        before = [witness for witness in known if witness.state_directory == here]
        return max(before, key=lambda witness: witness.state_at, default=None)

    return contradiction(state_directory, newest, f"the token of HSM {hsm_id}, as the state of {here},")


def place_of(state_directory: Path) -> str:
    """The machine and the path of a state directory. Several machines may write to one token."""
    return f"{platform.node()}:{state_directory.resolve()}"


def _decoded(value: bytes) -> Witness | None:
    try:
        return decode_json(value, Witness)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
