"""``xksproxy audit``: verification of a chained audit log."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.config_option import config_option
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.config.check import read_audit_key
from xksproxy.config.load import load_config
from xksproxy.config.regular_file import FIFO, kind_of
from xksproxy.telemetry.chain import ChainReport, lines_of, verify_lines
from xksproxy.telemetry.chain_copy import CopyVerification, verify_copy

_MAXIMUM_PRINTED_PROBLEMS = 100
_OPEN_ALREADY = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


@click.group()
def audit() -> None:
    """Check audit logs.

    \b
    Example:
      xksproxy audit verify /var/log/xksproxy/audit.log
    """


@audit.command()
@config_option
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--copy",
    "is_copy",
    is_flag=True,
    help="The files are a collector's: in any order, with repeated lines, and with gaps between two files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(config_file: Path, files: tuple[Path, ...], *, is_copy: bool, as_json: bool) -> None:
    """Find lines that were removed, changed, moved or inserted. Give rotated logs in order, the oldest first.

    Lines removed at the end of a chain are detected only up to its last checkpoint. A line with more than 1 MiB is
    damaged. The key is that of [audit] in the configuration. Exit code 1 if a problem is found.

    \b
    Example:
      xksproxy audit verify audit.log.1 audit.log
      xksproxy audit verify --copy november.log january.log
    """
    _require_files(files)
    key = read_audit_key(load_config(config_file).audit)
    if key is None:
        print_error("the audit log has no chain: audit.chain is false", "set audit.chain and audit.key")
        sys.exit(COULD_NOT_RUN)
    verification = verify_copy(_named(files), key) if is_copy else verify_lines(_lines(files), key)
    gaps = verification.gaps if isinstance(verification, CopyVerification) else []
    chains = list(verification.chains.values())
    if as_json:
        print_json(
            {
                "chains": [_document(chain) for chain in chains],
                "problems": verification.problems,
                "incomplete": verification.incomplete,
                "gaps": gaps,
            }
        )
    else:
        for chain in chains:
            print_line(_summary(chain))
        for beginning in verification.incomplete[:_MAXIMUM_PRINTED_PROBLEMS]:
            print_line(f"{beginning}, which was written again completely, as after a full disk")
        for gap in gaps[:_MAXIMUM_PRINTED_PROBLEMS]:
            print_line(gap)
        for problem in verification.problems[:_MAXIMUM_PRINTED_PROBLEMS]:
            print_error(problem)
        if len(verification.problems) > _MAXIMUM_PRINTED_PROBLEMS:
            print_error(f"and {len(verification.problems) - _MAXIMUM_PRINTED_PROBLEMS} more")
    if verification.problems or not chains:
        if not chains:
            print_error("the files have no line of a chain")
        sys.exit(FOUND_SOMETHING_WRONG)


def _require_files(files: tuple[Path, ...]) -> None:
    """Refuse what may have no end. A pipe that this process was given already open, as standard input, is accepted."""
    for path in files:
        kind = kind_of(path)
        if kind and not (kind == FIFO and str(path).startswith(_OPEN_ALREADY)):
            print_error(f"{path}: it is {kind}; expected a regular file, or a pipe as /dev/stdin")
            sys.exit(COULD_NOT_RUN)


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from lines_of(file)


def _named(files: tuple[Path, ...]) -> Iterator[tuple[str, Iterator[bytes]]]:
    for path in files:
        yield str(path), _lines((path,))


def _document(chain: ChainReport) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(chain).items() if not name.startswith("_")}
    return fields | {"lines_after_checkpoint": chain.lines_after_checkpoint}


def _summary(chain: ChainReport) -> str:
    head = f"chain {chain.id}: {chain.lines} lines, numbers {chain.first} to {chain.last}"
    if chain.checkpoint is None:
        return f"{head}; no checkpoint, so a removed end is not detected"
    return (
        f"{head}; a removed end is detected up to number {chain.checkpoint}, the checkpoint of {chain.checkpoint_time};"
        f" {chain.lines_after_checkpoint} lines follow it"
    )
