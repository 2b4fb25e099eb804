"""The state directory, as one worker follows it."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xksproxy.hsm.instance.token_witness import TokenWitness, Witnessing
from xksproxy.keystore.blocks import BlockChange
from xksproxy.server.directory_identity import StateIdentity
from xksproxy.server.followers import Registration
from xksproxy.server.state_doubt import StateDoubt
from xksproxy.server.state_tables import StateTables, guarded
from xksproxy.spec.errors import InternalException
from xksproxy.state.directory_check import StateDirectoryCheck
from xksproxy.state.first_use_files import FirstUseFiles
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import FILE_NAME as NUMBER
from xksproxy.state.state_number import StateNumber
from xksproxy.state.usage import UsageBook

_ANSWER_SECONDS: Final = 5.0
"""A file system that has not answered for so long counts as one that does not answer."""

_RETURN_SECONDS: Final = 1.0


class WorkerState:
    """What a worker knows of the state directory, and whether the directory can be trusted."""

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        identity: StateIdentity | None = None,
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """``runtime`` is the directory that the workers share while they run.

        ``identity`` is that of the state directory; without it, the directory that is there now. ``known`` has the
        revisions that files in it have had while the proxy ran: older ones are refused.
        """
        self.directory = directory
        self._reading_since: float | None = None
        self._master = os.getppid()
        self._registration = Registration(directory, runtime)
        self._identity = identity or StateIdentity(directory)
        self._lost = self._identity.problem
        self.usage = UsageBook(directory, lambda: self._unanswered, known)
        self._check = StateDirectoryCheck(directory)
        self._first_use = FirstUseFiles(directory, known)
        self._doubt = StateDoubt(directory, known.get(NUMBER, -1))
        if not self._lost:
            self._doubt.follow()
        self.tables = StateTables(directory, lambda: self._lost, known)
        """Blocks, versions, fingerprints and retired credentials."""
        self.token_witness = TokenWitness(directory, ())
        """The tokens that know of the directory."""

    def let_tokens_witness(self, instances: Iterable[Witnessing]) -> None:
        """Compare the directory with what the tokens of these HSMs know. Call it before they start."""
        self.token_witness = TokenWitness(self.directory, instances)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Note that files are read: a file system that does not answer meanwhile is a problem."""
        self._reading_since = time.monotonic()
        try:
            yield
        finally:
            self._reading_since = None

    def refresh(self) -> list[tuple[str, BlockChange]]:
        """Read what commands and other workers have changed on disk; call it on a thread.

        Returns each block that was set or removed, with the name of its key store.
        """
        self._lost = self._identity.problem
        if self._lost:
            return []
        changes = self.tables.refresh()
        guarded(self._doubt.follow)
        guarded(self.usage.records.check)
        guarded(self._check.refresh)
        guarded(self._first_use.refresh)
        return changes

    def flush_uses(self) -> None:
        """Write when credentials were used; call it on a thread that nothing else waits for."""
        if not self._identity.problem:
            guarded(self.tables.flush_uses)

    def register(self) -> None:
        """Let commands find this proxy by its state directory. It writes a file: call it on a thread."""
        if (master := os.getppid()) == self._master:  # otherwise this process leaves, as its master has ended
            with suppress(StateUnusable):  # which the check of the directory reports
                self._registration.keep(master)

    def return_counts(self) -> None:
        """Return counts that were reserved for encryptions but not used, as far as a second allows; call it last."""
        self.usage.return_unused(_RETURN_SECONDS)

    def require_newest(self) -> None:
        """Refuse to encrypt while the directory is lost, or is in doubt: counts of encryptions may be too low.

        Raises:
            InternalException: it is.
        """
        if self._lost:
            raise InternalException("The state directory of the proxy is lost", detail=self._lost)
        if self.doubt:
            raise InternalException("The state directory of the proxy is in doubt", detail=self.doubt)

    def identity_problem(self) -> str:
        """Why the directory must not be used now; empty if it is the same as before. It asks the file system."""
        return self._identity.problem

    @property
    def lost(self) -> bool:
        """Whether the directory was removed or replaced while the proxy runs."""
        return bool(self._lost)

    @property
    def problem(self) -> str:
        """Why Encrypt requests of every key store are refused although HSMs serve; empty if they are not refused."""
        problems = (
            self._unanswered,
            self._lost,
            self._check.problem,
            self.usage.records.problem,
            self.tables.retired.problem,
        )
        return next(filter(None, problems), self.doubt)

    @property
    def first_use_problem(self) -> str:
        """Why keys that were never used on this machine are refused; empty if they are not."""
        return self._first_use.problem

    @property
    def doubt(self) -> str:
        """Why the directory may be older than it was; empty if nothing says so."""
        return self._doubt.reason or self.token_witness.doubt

    @property
    def number(self) -> StateNumber:
        """The number of the directory."""
        return self._doubt.number

    @property
    def revisions(self) -> Mapping[str, int]:
        """The revisions of files that are in force, by the names of the files; none of another directory."""
        if self._lost:
            return {}
        number = self.number.newest
        return {**self.tables.revisions(), **({NUMBER: number} if number > 0 else {})}

    @property
    def revisions_generation(self) -> int:
        """Grows when :attr:`revisions` may have changed."""
        return self.tables.generation + max(self.number.newest, 0)

    @property
    def refused(self) -> tuple[str, ...]:
        """The files that are refused, so that the last known state is in force."""
        return tuple(self.tables.refused())

    @property
    def record_revisions(self) -> Mapping[str, int]:
        """The revisions of fingerprints and counts that this worker has seen; none of another directory."""
        return {} if self._lost else {**self.tables.fingerprint_revisions, **self.usage.revisions}

    @property
    def records_generation(self) -> tuple[int, int]:
        """Another value after each change of :attr:`record_revisions`."""
        return self.tables.fingerprints_generation, self.usage.generation

    @property
    def life_cycle_changes(self) -> tuple[int, int]:
        """Changes with blocks, key versions and retired credentials."""
        return self.tables.generation, self.tables.retired.revision

    @property
    def _unanswered(self) -> str:
        """Says that the file system of the directory, or of another file that workers follow, does not answer."""
        since = self._reading_since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds < _ANSWER_SECONDS:
            return ""
        return (
            f"a file system has not answered for {_ANSWER_SECONDS:.0f} s: that of {self.directory}, or of a file to"
            " follow"
        )
