"""Which key a label meant when it was first used: remembered across workers and restarts."""

from contextlib import suppress
from pathlib import Path

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.state_file import SharedTable, StateUnusable


class FingerprintRecords:
    """Proofs by label, in one file of the state directory for each key store that has several HSMs.

    The first fingerprint that is proposed for a label stays until it is replaced on purpose. The methods that write wait for
    a file lock and for the disk: call them on a thread.
    """

    def __init__(self, path: Path) -> None:
        self._identity = SharedTable(path, KeyFingerprint)

    def get(self, label: str) -> KeyFingerprint | None:
        """The fingerprint known to this worker."""
        return self._identity.get(label)

    def refresh(self) -> None:
        """Learn what other processes have recorded since; what cannot be read now changes nothing."""
        with suppress(StateUnusable):
            self._identity.refresh()

    def propose(self, label: str, fingerprint: KeyFingerprint) -> KeyFingerprint:
        """Remember a label's fingerprint unless another process has; the one that counts.

        Raises:
            TokenUnavailable: the state cannot be used, so nothing may be encrypted under an unproven key.
        """
        return self._update(label, fingerprint, instead_of=None)

    def replace(self, label: str, old: KeyFingerprint, new: KeyFingerprint) -> KeyFingerprint:
        """Put ``new`` in the place of ``old``; the one that counts, should another process have been faster."""
        return self._update(label, new, instead_of=old)

    def _update(self, label: str, fingerprint: KeyFingerprint, *, instead_of: KeyFingerprint | None) -> KeyFingerprint:
        def change(known: KeyFingerprint | None) -> KeyFingerprint:
            return fingerprint if known is None or known == instead_of else known

        try:
            return self._identity.update(label, change) or fingerprint
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of keys cannot be used: {error}") from error
