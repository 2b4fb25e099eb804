"""Which key a label meant when it was first used: remembered across workers and restarts."""

from contextlib import suppress
from pathlib import Path

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.session import KeyProof
from xksproxy.state.statefile import SharedTable, StateUnusable


class KeyRecords:
    """Proofs by label, in one file of the state directory for each key store that has several HSMs.

    The first proof that is proposed for a label stays until it is replaced on purpose. The methods that write wait for
    a file lock and for the disk: call them on a thread.
    """

    def __init__(self, path: Path) -> None:
        self._proofs = SharedTable(path, KeyProof)

    def get(self, label: str) -> KeyProof | None:
        """The proof known to this worker."""
        return self._proofs.get(label)

    def refresh(self) -> None:
        """Learn what other processes have recorded since; what cannot be read now changes nothing."""
        with suppress(StateUnusable):
            self._proofs.refresh()

    def propose(self, label: str, proof: KeyProof) -> KeyProof:
        """Remember a label's proof unless another process has; the one that counts.

        Raises:
            TokenUnavailable: the state cannot be used, so nothing may be encrypted under an unproven key.
        """
        return self._update(label, proof, instead_of=None)

    def replace(self, label: str, old: KeyProof, new: KeyProof) -> KeyProof:
        """Put ``new`` in the place of ``old``; the one that counts, should another process have been faster."""
        return self._update(label, new, instead_of=old)

    def _update(self, label: str, proof: KeyProof, *, instead_of: KeyProof | None) -> KeyProof:
        def change(known: KeyProof | None) -> KeyProof:
            return proof if known is None or known == instead_of else known

        try:
            return self._proofs.update(label, change) or proof
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of keys cannot be used: {error}") from error
