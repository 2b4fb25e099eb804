"""Searches for keys that no listing has found. All requests for one key share a search; the total time is limited."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from typing import Final
from weakref import WeakValueDictionary

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    DeadlinePassed,
    HsmBusy,
    HsmError,
    KeyAmbiguous,
    KeyMissing,
    SessionLost,
    TokenUnavailable,
    TooManySearches,
)
from xksproxy.hsm.fleet.search_allowance import SearchAllowance
from xksproxy.hsm.instance.instance import Instance
from xksproxy.request_stats import current_request_stats

MISSING_SECONDS: Final = 2.0
_FOUND_SECONDS: Final = 60.0
_NOT_FOUND: Final = (KeyMissing, KeyAmbiguous, TokenUnavailable, SessionLost, HsmBusy, DeadlinePassed)
"""After any other failure the key was found: it forbids the use, it is not the key on record, or the data is wrong."""


class KeySearches:
    """The results of searches for keys. Belongs to the event loop.

    A key that is missing or ambiguous is remembered for 2 s. Then a request may search for it again.
    """

    def __init__(self, instances: Sequence[Instance], revision: Callable[[], object]) -> None:
        """Missing keys are forgotten when ``revision`` changes, because there may be new keys then."""
        self._instances = instances
        self._revision = revision
        self._found: dict[str, float] = {}
        """By label: the monotonic time until which the result is used."""
        self._missing: dict[str, tuple[float, HsmError]] = {}
        self._missing_as_of: object = None
        self._allowance = SearchAllowance()

    @cached_property
    def _locks(self) -> WeakValueDictionary[str, asyncio.Lock]:
        """By label. Most key stores never search, and this takes 700 bytes."""
        return WeakValueDictionary()

    def forget_missing(self) -> None:
        """Let the next request for each key search for it. May be called on any thread."""
        self._missing = {}

    def is_known(self, label: str) -> bool:
        """Whether a listing or a search has found the key, or an instance was not listed yet.

        Raises:
            KeyMissing, KeyAmbiguous: a search within the last 2 s has failed.
        """
        self._raise_missing(label)
        instances = self._instances
        return (
            any(label in instance.keys.labels for instance in instances)
            or self._found.get(label, 0.0) > time.monotonic()
            or not all(instance.listing.listed for instance in instances)
        )

    @asynccontextmanager
    async def searching(self, label: str, deadline: Deadline) -> AsyncIterator[None]:
        """Let one request at a time search for an unknown key in its block, while time for searches is left.

        If another request has found the key meanwhile, the block runs without these limits.

        Raises:
            KeyMissing, KeyAmbiguous: another request has searched for it.
            TooManySearches: searches for unknown keys have taken too much time.
        """
        lock = self._locks.setdefault(label, asyncio.Lock())
        try:
            async with asyncio.timeout(deadline.remaining()):
                await lock.acquire()
        except TimeoutError:
            raise TooManySearches("another request searches for the key") from None
        try:
            if not self.is_known(label):
                with self._search(label):
                    yield
                return
        finally:
            lock.release()
        yield

    @contextmanager
    def _search(self, label: str) -> Iterator[None]:
        """Subtract the time of the block from the allowance, and note whether it has found the key."""
        taken = self._allowance.begin()
        if taken is None:
            raise TooManySearches("requests name too many keys that no listing has found")
        clock = _session_clock()
        began_at = clock()
        try:
            yield
        except HsmError as error:
            if not isinstance(error, _NOT_FOUND):
                self._note_found(label)
            raise
        else:
            self._note_found(label)
        finally:
            self._allowance.end(taken, clock() - began_at)

    def note_missing(self, label: str, error: KeyMissing | KeyAmbiguous) -> None:
        """Note that no HSM has the key, or that it is ambiguous."""
        now = time.monotonic()
        if self._missing_as_of != (revision := self._revision()):
            self._missing, self._missing_as_of = {}, revision
        missing = {name: failure for name, failure in self._missing.items() if failure[0] > now}
        self._missing = {**missing, label: (now + MISSING_SECONDS, error)}
        self._found.pop(label, None)

    def _note_found(self, label: str) -> None:
        now = time.monotonic()
        self._found = {name: until for name, until in self._found.items() if until > now}
        self._found[label] = now + _FOUND_SECONDS

    def _raise_missing(self, label: str) -> None:
        if not self._missing:
            return
        until, error = self._missing.get(label, (0.0, None))
        if error is not None and until > time.monotonic() and self._missing_as_of == self._revision():
            raise type(error)(str(error))


def _session_clock() -> Callable[[], float]:
    """A clock of the seconds in HSM sessions; of all seconds, if the caller collects no statistics."""
    stats = current_request_stats.get()
    return time.monotonic if stats is None else lambda: stats.hsm_seconds
