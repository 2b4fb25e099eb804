"""The state of key stores, as a worker has read it. It outlives snapshots, so known blocks are never forgotten."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.keystore.blocks import BlockChange, Blocks
from xksproxy.keystore.versions import KeyVersions
from xksproxy.server.round_robin import RoundRobin
from xksproxy.state.blocks import block_table
from xksproxy.state.credential_uses import CredentialUses, UseRecord
from xksproxy.state.directory_changes import DirectoryChanges
from xksproxy.state.retired_credentials import FILE_NAME as RETIRED
from xksproxy.state.retired_credentials import RetiredCredentials
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.versions import version_table

_log: Final = logging.getLogger(__name__)

_LOOKED_AT_ANYWAY: Final = 4

Result = TypeVar("Result")
Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class StoreState:
    """The state of one key store."""

    blocks: Blocks
    versions: KeyVersions
    fingerprints: FingerprintRecords
    credential_uses: CredentialUses

    @property
    def problem(self) -> str:
        """Why a file cannot be read, so that the last known state is in force. Empty if all can be read."""
        return self.blocks.problem or self.versions.problem or self.fingerprints.problem


class StateTables:
    """The state of each key store that this process has served, by its name."""

    def __init__(
        self, directory: Path, lost: Callable[[], str] = str, known: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """``lost`` returns why the directory must not be read now; empty if it may be.

        ``known`` has revisions that files are known to have had, as :meth:`revisions` of another worker returned them.
        """
        self._known = known
        self._tables: dict[str, SharedTable[Any]] = {}
        """Those of blocks and versions, by the names of their files."""
        self._directory = directory
        self._lost = lost
        self._states: dict[str, StoreState] = {}
        self._uses = UseRecord(directory)
        self.retired = RetiredCredentials(directory, known.get(RETIRED, 0), unread=lost())
        self._blocks_of_all = Blocks(self._expecting(block_table(directory, None)), unread=lost())
        self._changes = DirectoryChanges((directory,))
        self._round = RoundRobin(_LOOKED_AT_ANYWAY)
        self._troubled: set[str] = set()
        self._changed: set[str] = set()
        self.generation = 0
        """Grows when a revision in :meth:`revisions` may have changed."""
        self.fingerprint_revisions: dict[str, int] = {}
        """The highest revisions that the files of fingerprints are known to have had, by their names."""
        self.fingerprints_generation = 0
        """Grows when one of them has changed."""

    def of(self, keystore: str) -> StoreState:
        """Return the state of a key store. It is read on first use, and stays the same object afterwards."""
        state = self._states.get(keystore)
        if state is None:
            unread = self._lost()
            blocks = self._expecting(block_table(self._directory, keystore))
            versions = self._expecting(version_table(self._directory, keystore))
            # Most of thousands of key stores have none. The blocks of all are read anyway, which checks the directory.
            for table in (blocks, versions):
                table.expect_missing()
            state = self._states[keystore] = StoreState(
                Blocks(blocks, self._blocks_of_all, unread=unread),
                KeyVersions(versions, unread=unread),
                FingerprintRecords(self._directory, keystore, expect_missing=True, known=self._known),
                CredentialUses(self._directory, keystore, self._uses),
            )
            if not unread:
                self._refresh_fingerprints(state)
        return state

    def _refresh_fingerprints(self, state: StoreState) -> None:
        records = state.fingerprints
        records.refresh()
        if records.known_revision > self.fingerprint_revisions.get(records.file_name, 0):
            self.fingerprint_revisions[records.file_name] = records.known_revision
            self.fingerprints_generation += 1

    def _expecting(self, table: SharedTable[Entry]) -> SharedTable[Entry]:
        table.expect_revision(self._known.get(table.path.name, 0))
        self._tables[table.path.name] = table
        return table

    def refresh(self) -> list[tuple[str, BlockChange]]:
        """Read the files that have changed, and return the changed blocks with the names of their key stores.

        Blocks come first. Besides what inotify reports, a few key stores are looked at each time, in turn; all of them
        if the directory cannot be watched. The failure of one file never keeps the others from being read. Call it on a
        thread.
        """
        changed_for_all = guarded(self._blocks_of_all.refresh) or ()
        names = {*self._states} if changed_for_all else self._due()
        due = [(keystore, self._states[keystore]) for keystore in names]
        changes = [("", change) for change in changed_for_all]
        before = [_followed(state) for _, state in due]
        for keystore, state in due:
            changes += [(keystore, change) for change in guarded(state.blocks.refresh) or ()]
            guarded(state.versions.refresh)
        guarded(self.retired.refresh)
        self.generation += bool(changed_for_all) or before != [_followed(state) for _, state in due]
        for _, state in due:
            guarded(partial(self._refresh_fingerprints, state))
        self._troubled = {keystore for keystore, state in due if state.problem}
        self._changed |= names
        return changes

    def _due(self) -> set[str]:
        """The names of the key stores to be looked at."""
        changed = self._changes.take()
        if changed is None or self._changes.unwatched:
            self._changes = DirectoryChanges((self._directory,))  # it may have been replaced
            return set(self._states)
        # Of blocks-NAME.json, versions-NAME.json and keys-NAME.json
        named = {name.partition("-")[2].removesuffix(".json") for _, name in changed}
        return (named & self._states.keys()) | self._troubled | set(self._round.next(self._states))

    def take_changed(self) -> set[str]:
        """The key stores whose state may have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def flush_uses(self) -> None:
        """Write when credentials were used. It waits for the disk: call it on a thread of its own."""
        self._uses.flush()

    def revisions(self) -> Mapping[str, int]:
        """The highest revisions that the files are known to have had, by their names; unknown ones are left out."""
        known = {name: table.known_revision for name, table in list(self._tables.items())}
        known[RETIRED] = self.retired.known_revision
        return {name: revision for name, revision in known.items() if revision > 0}

    def refused(self) -> Iterator[str]:
        """The names of the files that this worker refuses, so that it follows no change of them."""
        if self._blocks_of_all.problem:
            yield "blocks.json"
        if self.retired.problem:
            yield RETIRED
        for keystore, state in list(self._states.items()):
            if state.blocks.problem:
                yield f"blocks-{keystore}.json"
            if state.versions.problem:
                yield f"versions-{keystore}.json"


def _followed(state: StoreState) -> tuple[int, int]:
    """The revisions of blocks and versions that are in force; 0 for a file that is refused."""
    blocks, versions = state.blocks, state.versions
    return (0 if blocks.problem else blocks.revision), (0 if versions.problem else versions.revision)


def guarded(step: Callable[[], Result]) -> Result | None:
    """Run one step. An unexpected failure is logged, so that the next steps are run."""
    try:
        return step()
    except Exception:  # noqa: BLE001 - the next steps must be run
        _log.exception("unexpected failure while following the state directory")
        return None
