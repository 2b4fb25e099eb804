"""Which key a label meant when it was first used: remembered across workers and restarts."""

from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.session import KeyProof
from xksproxy.hsm.statefile import StateUnusable, locked, replace

_LOCK_SECONDS: Final = 1.0


class KeyRecords:
    """Proofs by label, in one file of the state directory for each key store that has several HSMs.

    The first proof that is proposed for a label stays until it is replaced on purpose. The methods that write wait for
    a file lock and for the disk: call them on a thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._proofs: dict[str, KeyProof] = {}

    def get(self, label: str) -> KeyProof | None:
        """The proof known to this worker."""
        return self._proofs.get(label)

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
        try:
            with locked(self._path, _LOCK_SECONDS):
                proofs = self._read()
                if proofs.get(label) in (None, instead_of):
                    proofs[label] = proof
                    replace(self._path, msgspec.json.encode(proofs))
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of keys cannot be used: {error}") from error
        self._proofs = proofs
        return proofs[label]

    def _read(self) -> dict[str, KeyProof]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, KeyProof])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise StateUnusable(f"{self._path}: {error}") from error
