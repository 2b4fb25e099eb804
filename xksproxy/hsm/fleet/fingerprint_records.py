"""The fingerprint of each key when it was first used, shared by workers and kept across restarts."""

from pathlib import Path

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.state_file import SharedTable, StateUnusable


class FingerprintRecords:
    """Fingerprints by label, in one file of the state directory for each key store that has several HSMs.

    The first fingerprint that is proposed for a label stays until it is replaced on purpose. Methods that write wait
    for a file lock and for the disk: call them on a thread.
    """

    def __init__(self, path: Path) -> None:
        self._table = SharedTable(path, KeyFingerprint)
        self.problem = ""
        """Why the file cannot be read. Empty if it can be read."""

    def get(self, label: str) -> KeyFingerprint | None:
        """The fingerprint on record, as this worker last read it."""
        return self._table.get(label)

    def refresh(self) -> None:
        """Read what other processes have recorded; a file that cannot be read changes nothing."""
        try:
            self._table.refresh()
        except StateUnusable as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def propose(self, label: str, fingerprint: KeyFingerprint) -> KeyFingerprint:
        """Record a label's fingerprint, unless one is on record. Returns the one on record.

        Raises:
            TokenUnavailable: the state cannot be used, so that nothing may be encrypted under the key.
        """
        return self._update(label, fingerprint, instead_of=None)

    def replace(self, label: str, old: KeyFingerprint, new: KeyFingerprint) -> KeyFingerprint:
        """Replace ``old`` by ``new``, unless another process has replaced it before. Returns the one on record."""
        return self._update(label, new, instead_of=old)

    def _update(self, label: str, fingerprint: KeyFingerprint, *, instead_of: KeyFingerprint | None) -> KeyFingerprint:
        def change(known: KeyFingerprint | None) -> KeyFingerprint:
            return fingerprint if known is None or known == instead_of else known

        try:
            return self._table.update(label, change) or fingerprint
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of key fingerprints cannot be used: {error}") from error
