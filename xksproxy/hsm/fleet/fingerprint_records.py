"""The fingerprint of each key when it was first used, shared by workers and kept across restarts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from xksproxy.hsm.errors import RecordsUnusable
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable


class FingerprintRecords:
    """Fingerprints by label, in one file of the state directory for each key store.

    The first fingerprint that is proposed for a label stays until it is replaced on purpose. Methods that write wait
    for a file lock and for the disk: call them on a thread.
    """

    def __init__(
        self,
        state_directory: Path,
        keystore: str,
        *,
        expect_missing: bool = False,
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """``expect_missing``: see :meth:`SharedTable.expect_missing`.

        ``known`` has a revision that the file is known to have had, by its name.
        """
        self._table = SharedTable(state_directory, f"keys-{keystore}.json", KeyFingerprint)
        self._table.expect_revision(known.get(self.file_name, 0))
        if expect_missing:
            self._table.expect_missing()
        self.problem = ""
        """Why the file cannot be read. Empty if it can be read."""

    def get(self, label: str) -> KeyFingerprint | None:
        """The fingerprint on record, as this worker last read it."""
        return self._table.get(label)

    def expected(self) -> Iterator[str]:
        """The labels of keys that were used, and were not removed on purpose, as this worker last read them."""
        return (label for label, fingerprint in self._table.entries().items() if not fingerprint.removed)

    @property
    def file_name(self) -> str:
        """The name of the file."""
        return self._table.path.name

    @property
    def revision(self) -> int:
        """The revision of the file, as this worker last read it."""
        return self._table.revision

    @property
    def known_revision(self) -> int:
        """The highest revision that the file is known to have had; 0 if none is known."""
        return self._table.known_revision

    def refresh(self) -> None:
        """Read what other processes have recorded. If the file cannot be read, the records stay as they were."""
        try:
            self._table.refresh()
        except StateUnusable as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def propose(self, label: str, fingerprint: KeyFingerprint) -> KeyFingerprint:
        """Record a fingerprint, unless the label has one on record. Returns the one on record.

        Raises:
            RecordsUnusable: the state directory cannot be used, so nothing may be encrypted under the key.
        """
        return self.propose_all({label: fingerprint}).get(label, fingerprint)

    def propose_all(self, fingerprints: Mapping[str, KeyFingerprint]) -> Mapping[str, KeyFingerprint]:
        """:meth:`propose` for several labels, with one write. Returns all that is on record."""
        with _failures_translated():
            return self._table.add(fingerprints)

    def replace(self, label: str, old: KeyFingerprint, new: KeyFingerprint) -> KeyFingerprint:
        """Replace ``old`` by ``new``, unless another process has already replaced it. Returns the one on record."""

        def change(known: KeyFingerprint | None) -> KeyFingerprint:
            return new if known is None or known == old else known

        with _failures_translated():
            return self._table.update(label, change) or new


@contextmanager
def _failures_translated() -> Iterator[None]:
    try:
        yield
    except StateUnusable as error:
        raise RecordsUnusable(f"the record of key fingerprints cannot be used: {error}") from error
