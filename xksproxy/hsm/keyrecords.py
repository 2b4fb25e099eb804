"""Which key a label meant when it was first used: its check value, remembered across workers and restarts."""

from pathlib import Path
from typing import Final

import msgspec

from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.statefile import StateUnusable, locked, replace

_LOCK_SECONDS: Final = 0.05


class KeyRecords:
    """Check values by label, in one file of the state directory for each key store that has several HSMs.

    The first value that is proposed for a label stays until it is replaced on purpose. Belongs to one event loop; the
    file is touched only when a label is used for the first time or changes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, str] = {}

    def get(self, label: str) -> str | None:
        """The value known to this worker."""
        return self._values.get(label)

    def propose(self, label: str, value: str) -> str:
        """Remember a label's value unless another process has; the value that counts.

        Raises:
            TokenUnavailable: the state cannot be used, so nothing may be encrypted under an unproven key.
        """
        return self._update(label, value, instead_of=None)

    def replace(self, label: str, old: str, new: str) -> str:
        """Put ``new`` in the place of ``old``; the value that counts, should another process have been faster."""
        return self._update(label, new, instead_of=old)

    def _update(self, label: str, value: str, *, instead_of: str | None) -> str:
        try:
            with locked(self._path, _LOCK_SECONDS):
                values = self._read()
                if values.get(label) in (None, instead_of):
                    values[label] = value
                    replace(self._path, msgspec.json.encode(values))
        except StateUnusable as error:
            raise TokenUnavailable(f"the record of keys cannot be used: {error}") from error
        self._values = values
        return values[label]

    def _read(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise StateUnusable(f"{self._path}: {error}") from error
