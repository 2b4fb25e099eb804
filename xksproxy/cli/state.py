"""``xksproxy state``: back up, restore and check the state directory."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from xksproxy.cli.block_target import STATE_OPTIONS, BlockTarget, find_target
from xksproxy.cli.doubt import find_doubt
from xksproxy.cli.finite_range import FiniteRange
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.privilege import acting_as_owner, become_owner
from xksproxy.cli.record_event import record_event
from xksproxy.config.model import Config
from xksproxy.config.regular_file import FileRefused, read_regular_file
from xksproxy.config.secret import write_private_file
from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.server.followers import is_in_use
from xksproxy.state.backup import (
    FORMAT,
    MOST_PER_SECOND,
    Backup,
    BackupRefused,
    accept_directory,
    problems_of,
    restore_backup,
    take_backup,
)
from xksproxy.state.state_file import StateUnusable
from xksproxy.telemetry.state_witness import note_doubt

_MOST_BYTES: Final = 512 * 1024 * 1024
"""Of a backup. That of 10,000 key stores is a tenth of it."""


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(STATE_OPTIONS):
        function = option(function)
    return function


_rate_option = click.option(
    "--encryptions-per-second",
    "rate",
    type=FiniteRange(0),
    default=MOST_PER_SECOND,
    show_default=True,
    help="Each count is raised by so many for each second since then.",
)


@click.group()
def state() -> None:
    """Back up, restore and check the state directory: blocks, key versions, counts, retired credentials.

    \b
    Example:
      xksproxy state backup --out state-backup.json
    """


@state.command()
@_options
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A new file, mode 0600.")
def backup(config_file: Path | None, state_directory: Path | None, out: Path) -> None:
    """Write the state of this machine to one file, while the proxy runs or not. It has no secret.

    \b
    Example:
      xksproxy state backup --out state-backup.json
    """
    directory = _target(config_file, state_directory).state_directory
    with acting_as_owner(directory):
        taken = take_backup(directory)
    write_private_file(out, encode_json(taken).decode())
    print_line(f"{out}: {len(taken.files)} files of {directory}")


@state.command()
@_options
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_rate_option
def restore(config_file: Path | None, state_directory: Path | None, file: Path, rate: float) -> None:
    """Merge a backup of this machine with what is in the state directory. Stop the proxy first.

    What was blocked, disabled or retired stays so, in the backup and in the directory. Counts of encryptions are raised
    by what may have been made since the backup. Rotations skip the numbers of ten versions, which may have been made
    since.

    \b
    Example:
      xksproxy state restore state-backup.json
    """
    target = _target(config_file, state_directory)
    directory = target.state_directory
    saved = read_backup(file)
    _require_stopped(directory)
    _note_doubt(target.config)
    try:
        lost = restore_backup(directory, saved, rate, time.time())
    except BackupRefused as error:
        raise click.UsageError(f"{file}: {error}") from None
    taken_at = datetime.fromtimestamp(saved.taken_at, UTC).isoformat(timespec="seconds")
    record_event(directory, "state restored", backup_of=taken_at, lost=lost)
    print_line(f"{directory} has the backup of {taken_at}, of {saved.machine}, and what was there")
    print_line(
        "blocks that were removed since are in force again; blocks that were set since are not, if they were lost"
    )
    print_line("compare the primary version of each key with the token: xksproxy keys show ID")
    _report_lost(lost, "it was made after the backup, and is lost")


@state.command()
@_options
@_rate_option
def accept(config_file: Path | None, state_directory: Path | None, rate: float) -> None:
    """Accept a state directory that is in doubt, where there is no backup. Stop the proxy first.

    What the directory has counts as a backup of the time at which the proxy used it last. If it was lost, each key
    that is on the token counts as one that must not encrypt any more: rotate it.

    \b
    Example:
      xksproxy state accept
    """
    target = _target(config_file, state_directory)
    directory = target.state_directory
    _require_stopped(directory)
    _note_doubt(target.config)
    lost = accept_directory(directory, rate, time.time())
    record_event(directory, "state accepted", lost=lost)
    print_line(f"{directory} is accepted as it is")
    print_line("set the blocks again, and disable the versions, that it lacks: see the audit log")
    print_line("rotate each key that `xksproxy status` names: xksproxy keys rotate ID")
    _report_lost(lost, "its newest content is lost")


@state.command()
@_options
def check(config_file: Path | None, state_directory: Path | None) -> None:
    """Check the state directory against its manifest and its witness. Exit code 1 if a file is lost, damaged or older.

    \b
    Example:
      xksproxy state check
    """
    target = _target(config_file, state_directory)
    directory = target.state_directory
    become_owner(directory)
    doubt = find_doubt(directory, target.config)
    if doubt:
        print_error(doubt)
    found = list(problems_of(directory))
    problems = [problem for _, problem in found if problem]
    for problem in problems:
        print_error(problem)
    if problems:
        print_error("restore the newest copy, or merge a backup: xksproxy state restore FILE")
    if problems or doubt:
        sys.exit(FOUND_SOMETHING_WRONG)
    print_line(f"{directory}: {len(found)} files are what the manifest says")


def _target(config_file: Path | None, state_directory: Path | None) -> BlockTarget:
    if state_directory is None and config_file is None:
        raise click.UsageError("give --config FILE or --state DIRECTORY")
    return find_target(config_file, state_directory, None, all_stores=True)


def _require_stopped(directory: Path) -> None:
    """Become the owner of the state directory, or exit because it does not exist or a proxy uses it."""
    if not directory.is_dir():
        print_error(f"{directory} does not exist", "make it, with mode 0700 and the user of the proxy as its owner")
        sys.exit(COULD_NOT_RUN)
    become_owner(directory)
    if is_in_use(directory):
        print_error("a proxy uses the state directory", "stop it first: systemctl stop xksproxy")
        sys.exit(COULD_NOT_RUN)


def _note_doubt(config: Config | None) -> None:
    """Note what the audit log knows, if no proxy has since the directory was lost: all of that is settled now."""
    if config is not None:
        with suppress(StateUnusable):  # which is reported where the directory is written
            note_doubt(config)


def _report_lost(lost: list[str], what: str) -> None:
    for name in lost:
        print_error(f"{name}: {what}")
    if lost:
        sys.exit(FOUND_SOMETHING_WRONG)


def read_backup(file: Path) -> Backup:
    """The backup in a file (click.UsageError if it has none)."""
    try:
        saved = decode_json(read_regular_file(file, _MOST_BYTES).content, Backup)
    except FileRefused as error:
        raise click.UsageError(str(error)) from None
    except msgspec.MsgspecError as error:
        raise click.UsageError(f"{file} is not a backup of `xksproxy state backup`: {error}") from None
    if saved.format != FORMAT:
        raise click.UsageError(f"{file} has the format {saved.format}, expected {FORMAT}; a later release wrote it")
    return saved
