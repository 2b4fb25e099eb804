"""Refuses what would open something while the state directory is in doubt."""

from pathlib import Path

from xksproxy.config.model import Config
from xksproxy.state.doubt import StateInDoubt
from xksproxy.telemetry.state_witness import doubt_of, witness_file


def require_no_doubt(config: Config) -> None:
    """Require that nothing knows of a newer state directory (StateInDoubt if something does)."""
    require_newest(Path(config.state.directory), witness_file(config))


def require_newest(state_directory: Path, witness: Path | None) -> None:
    """The same, of a directory whose witness is this audit log, if there is one."""
    if doubt := doubt_of(state_directory, witness):
        raise StateInDoubt(doubt)
