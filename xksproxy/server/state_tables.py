"""The state of key stores, as a worker has read it. It outlives snapshots, so known blocks are never forgotten."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.keystore.blocks import BlockChange, Blocks
from xksproxy.keystore.versions import KeyVersions
from xksproxy.state.blocks import block_table
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.versions import version_table

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


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

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._states: dict[str, StoreState] = {}

    def of(self, keystore: str) -> StoreState:
        """Return the state of a key store. It is read on first use, and stays the same object afterwards."""
        state = self._states.get(keystore)
        if state is None:
            state = self._states[keystore] = StoreState(
                Blocks(block_table(self._directory, keystore)),
                KeyVersions(version_table(self._directory, keystore)),
                FingerprintRecords(self._directory / f"keys-{keystore}.json"),
                CredentialUses(self._directory, keystore),
            )
            state.fingerprints.refresh()
        return state

    def refresh(self) -> list[tuple[str, BlockChange]]:
        """Read all files again, write what is due, and return the changed blocks with the names of their key stores.

        If one file cannot be read, the others are read nevertheless. Call it on a thread.
        """
        changes: list[tuple[str, BlockChange]] = []
        for keystore, state in list(self._states.items()):
            changes += [(keystore, change) for change in guarded(state.blocks.refresh) or ()]
            for step in (state.versions.refresh, state.fingerprints.refresh, state.credential_uses.flush):
                guarded(step)
        return changes

    def revisions(self) -> Mapping[str, int]:
        """The revisions that are in force, by the names of the files."""
        return {
            name: revision
            for keystore, state in list(self._states.items())
            for name, revision in (
                (f"blocks-{keystore}.json", state.blocks.revision),
                (f"versions-{keystore}.json", state.versions.revision),
            )
        }


def guarded(step: Callable[[], Result]) -> Result | None:
    """Run one step. An unexpected failure is logged, so that the next steps are run."""
    try:
        return step()
    except Exception:  # noqa: BLE001 - the next steps must be run
        _log.exception("unexpected failure while following the state directory")
        return None
