"""Refuses what would open something while the state directory is in doubt."""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import click

from xksproxy.cli.output import print_progress
from xksproxy.config.access_checks import access_problems
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config
from xksproxy.config.service_user import ServiceUser
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.live_check import LiveCheck, check_each
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.witness_records import Record, doubt_by_token, read_records
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.server.followers import has_compared
from xksproxy.state.doubt import HOW_TO_SETTLE, StateInDoubt
from xksproxy.telemetry.state_witness import doubt_of, witness_file


def require_no_doubt(config: Config) -> None:
    """Require that nothing knows of a newer state directory (StateInDoubt if something does)."""
    require_newest(Path(config.state.directory), config)


def require_newest(state_directory: Path, config: Config | None) -> None:
    """The same, of a state directory whose configuration may not be usable."""
    if doubt := find_doubt(state_directory, config):
        raise StateInDoubt(doubt)


def require_no_known_doubt(config: Config) -> None:
    """The same without the tokens, which :func:`require_no_doubt_by` reads."""
    if doubt := doubt_of(Path(config.state.directory), witness_file(config)):
        raise StateInDoubt(doubt)


def require_no_doubt_by(config: Config, sessions: Mapping[str, HsmSession]) -> None:
    """Require that no token knows of a newer state directory. ``sessions`` are those of the command, by HSM id.

    Raises:
        StateInDoubt: a token does.
    """
    if config.state.witness == "token":
        records = ((hsm_id, _records(session)) for hsm_id, session in sessions.items())
        if doubt := _doubt_by(Path(config.state.directory), records):
            raise StateInDoubt(doubt)


def find_doubt(state_directory: Path, config: Config | None) -> str:
    """Why a state directory is in doubt; empty if it is not. ``config`` names its witnesses, if it can be used.

    If no proxy that runs has compared the directory with the tokens, this logs in to read them.
    """
    doubt = doubt_of(state_directory, None if config is None else witness_file(config))
    if doubt or config is None or config.state.witness != "token" or has_compared(state_directory):
        return doubt
    _require_trusted_modules(config)
    checks = list(check_each(config.hsm, state_directory, config.server.workers, print_progress))
    if all(live.session is None for live in checks):
        failures = "; ".join(f"{live.hsm.id}: {live.failure}" for live in checks)
        return f"no token can be read, and they are witnesses of the state directory: {failures}"
    return _doubt_by(state_directory, _records_of_each(checks))


def _require_trusted_modules(config: Config) -> None:
    """Refuse a configuration that others can change, before modules that it names are loaded as this user.

    Raises:
        ConfigError: somebody besides root and this user can change it, or a file that it names.
    """
    path = click.get_current_context().params["config_file"]
    if problems := list(access_problems(path, config, ServiceUser.current())):
        raise ConfigError([f"{path}: {problem}" for problem in problems])


def _records_of_each(checks: Iterable[LiveCheck]) -> Iterator[tuple[str, list[Record]]]:
    for live in checks:
        if (session := live.session) is not None:
            yield live.hsm.id, live.do(partial(_records, session))


def _records(session: HsmSession) -> list[Record]:
    """What a token knows; nothing if it keeps no such objects."""
    try:
        return read_records(session)
    except (HsmError, CryptokiError) as error:
        print_progress(f"the token is no witness of the state directory: {error}")
        return []


def _doubt_by(state_directory: Path, records: Iterable[tuple[str, list[Record]]]) -> str:
    doubts = (doubt_by_token(state_directory, hsm_id, found) for hsm_id, found in records)
    return next((f"{doubt.reason}; {HOW_TO_SETTLE}" for doubt in doubts if doubt), "")
