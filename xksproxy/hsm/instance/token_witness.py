"""The tokens as witnesses of the state directory: a small data object on each knows its number."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec

from xksproxy.encoding import encode_json
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.witness_records import LABEL, Record, doubt_by_token, place_of, read_records
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.state.doubt import begin_doubt
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import StateNumber
from xksproxy.state.witness import Witness

_log: Final = logging.getLogger(__name__)

_LEAST_SECONDS: Final = 60.0
"""The shortest pause between two writes of a machine on a token, to spare its memory."""

_COUNTS_SECONDS: Final = 3600.0
"""The pause before a write if only counts of encryptions have changed."""

_REREAD_SECONDS: Final = 10.0
"""The pause before a token that could not be read is read again."""

_MOST_READS: Final = 5
"""After so many readings that fail, a token counts as one that refuses to be read."""

_MOST_OBJECTS: Final = 64
"""A token with so many of these objects, of machines that are gone, gets no further one."""


class Witnessing(Protocol):
    """The HSM of a token."""

    id: str

    @property
    def serving(self) -> bool:
        """Whether it gets calls."""

    def read_when_connected(self, read: Callable[[HsmSession], None]) -> None:
        """Let ``read`` use a session whenever the HSM is connected, before it serves."""

    def on_own_session(self, work: Callable[[HsmSession], None]) -> None:
        """Run ``work`` on the calling thread, in a session that nobody else uses (HsmError if there is none)."""


class TokenWitness:
    """Compares the state directory with what the tokens know of it, and lets them know its number.

    A token is read whenever its HSM is connected, before it serves. It is written on a thread and a session of its own.
    Neither changes the health of an HSM.
    """

    def __init__(self, state_directory: Path, instances: Iterable[Witnessing]) -> None:
        """``instances`` are the HSMs whose tokens are witnesses. The reading of their tokens begins when they start."""
        self._directory = state_directory
        self.doubt = ""
        """Why the state directory is in doubt, as far as this process has seen it on a token. Empty if it is not."""
        self._tokens = [_Token(instance) for instance in instances]
        for token in self._tokens:
            token.instance.read_when_connected(partial(self._read, token))

    @property
    def problem(self) -> str:
        """Why no token is a witness; empty if one is, or if none shall be."""
        problems = [f"{token.instance.id}: {token.problem}" for token in self._tokens if token.problem]
        return "; ".join(problems) if len(problems) == len(self._tokens) else ""

    @property
    def unread(self) -> bool:
        """Whether no token was read yet. Until then the number must not be raised, or an older one could pass."""
        return bool(self._tokens) and not any(token.was_read for token in self._tokens)

    def keep(self, newest: Witness | None, changes: object) -> None:
        """Write the newest number to the tokens that lack it, if the last write is long enough ago.

        A token whose reading failed is read again before. ``changes`` is another value after a change that may not wait
        as long as a change of counts. It waits for nothing.
        """
        for token in self._tokens:
            if not token.instance.serving or token.is_in_use:
                continue
            if token.is_due_for_reading():
                self._begin(token, partial(self._read_again, token))
            elif newest is not None and not self.doubt and token.is_due(newest, changes):
                self._begin(token, partial(self._write, token, newest, changes))

    def _begin(self, token: "_Token", use: Callable[[], None]) -> None:
        """Use a token on a thread."""
        token.tried_at, token.is_in_use = time.monotonic(), True
        threading.Thread(target=self._run, args=(token, use), name=f"{token.instance.id}-witness", daemon=True).start()

    def _run(self, token: "_Token", use: Callable[[], None]) -> None:
        try:
            use()
        except Exception:  # noqa: BLE001 - the token must be used again later
            _log.exception("unexpected failure while a token was used as a witness")
        finally:
            token.is_in_use = False

    def _read(self, token: "_Token", session: HsmSession) -> None:
        """Read a token that is connected."""
        try:
            self._judge(token, read_records(session))
        except CryptokiError as error:
            token.note_failed_read(error)
        except HsmError as error:
            token.note_read()
            token.note_problem(f"it cannot be read: {error}")
        else:
            token.note_read()

    def _read_again(self, token: "_Token") -> None:
        """Read a token in a session of its own, because the failure may have passed."""
        try:
            token.instance.on_own_session(partial(self._read, token))
        except HsmError as error:
            token.note_failed_read(error)

    def _write(self, token: "_Token", newest: Witness, changes: object) -> None:
        try:
            token.instance.on_own_session(partial(self._replace, token, newest, changes))
        except (HsmError, CryptokiError, StateUnusable) as error:
            token.note_problem(f"it cannot be written: {error}")

    def _replace(self, token: "_Token", newest: Witness, changes: object, session: HsmSession) -> None:
        """Make an object with the newest number, then remove those that it replaces. At no moment is there none."""
        records = read_records(session)
        self._judge(token, records)
        own = sorted((item for item in records if item.is_of(newest.state_id)), key=lambda item: item.number)
        is_written = bool(own) and own[-1].number >= newest.state_number
        if self.doubt:
            return
        if own and not is_written and own[-1].age < _LEAST_SECONDS:
            token.tried_at = time.monotonic() - own[-1].age
            return
        objects = session.data_objects(LABEL)
        for item in own[:-1]:  # first: if the token refuses it, there are never more than two
            objects.destroy(item.handle)
        if not is_written:
            if not own and len(records) >= _MOST_OBJECTS:
                text = f"the token has {len(records)} objects {LABEL}; remove those of machines that are gone"
                token.note_problem(text)
                return
            here = place_of(self._directory)
            objects.create(encode_json(msgspec.structs.replace(newest, state_directory=here)), here)
            for item in (*own[-1:], *self._superseded(records, here, newest)):
                objects.destroy(item.handle)
        token.note_written(newest, changes)

    def _superseded(self, records: Iterable["Record"], here: str, newest: Witness) -> Iterator["Record"]:
        """The records of the directory that was here before this one was restored or accepted."""
        found = StateNumber(self._directory).read()
        settled_at = 0.0 if found is None else found[1].settled_at
        for item in records:
            witness = item.witness
            if witness is None or witness.state_directory != here or witness.state_id == newest.state_id:
                continue
            if witness.state_at <= settled_at:
                yield item

    def _judge(self, token: "_Token", records: Sequence["Record"]) -> None:
        """Compare the directory with what was read on a token, and mark it if it is older."""
        found = doubt_by_token(self._directory, token.instance.id, records)
        if found and not self.doubt:
            self.doubt = begin_doubt(self._directory, *found)


class _Token:
    """What this process knows of one token."""

    def __init__(self, instance: Witnessing) -> None:
        self.instance = instance
        self.problem = ""
        """Why it is no witness now. Empty if it is one, as far as known."""
        self.is_in_use = False
        """Whether a thread reads or writes it."""
        self.tried_at = -math.inf
        """When such a thread began last, on the monotonic clock."""
        self._was_read = False
        self._failed_reads = 0
        self._written: Witness | None = None
        self._changes: object = None

    @property
    def was_read(self) -> bool:
        """Whether it was read, or refuses that."""
        return self._was_read or self._failed_reads >= _MOST_READS

    def is_due_for_reading(self) -> bool:
        """Whether it should be read again, because that failed."""
        failed = self._failed_reads > 0 and not self.was_read
        return failed and time.monotonic() - self.tried_at >= _REREAD_SECONDS

    def is_due(self, newest: Witness, changes: object) -> bool:
        """Whether it should be written now."""
        if newest == self._written:
            return False
        pause = _COUNTS_SECONDS if changes == self._changes and not self.problem else _LEAST_SECONDS
        return time.monotonic() - self.tried_at >= pause

    def note_read(self) -> None:
        """Note that it was read, so that it can be written."""
        if not self._was_read and self._failed_reads:
            self.problem, self.tried_at = "", -math.inf
        self._was_read = True

    def note_failed_read(self, error: Exception) -> None:
        """Note that it could not be read."""
        self._failed_reads += 1
        self.note_problem(f"it cannot be read: {error}")

    def note_written(self, newest: Witness, changes: object) -> None:
        """Note that it knows this number, or a higher one."""
        self._written, self._changes, self.problem = newest, changes, ""

    def note_problem(self, problem: str) -> None:
        """Note why it is no witness; each reason is logged once."""
        if problem != self.problem:
            fields = {"hsm": self.instance.id, "reason": problem}
            _log.warning("token is no witness of the state", extra={"fields": fields})
        self.problem = problem
