"""``xksproxy audit``: whether a chained audit log is whole."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.config_option import config_option, load_checked
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json
from xksproxy.config.check import read_audit_key
from xksproxy.telemetry.chain import ChainReport, verify_lines

_SHOWN_PROBLEMS = 100


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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(config_file: Path, files: tuple[Path, ...], *, as_json: bool) -> None:
    """Find lines that were removed, changed, moved or put in. Give rotated logs in their order, the oldest first.

    Of a chain's end, cut-off lines show only up to its last checkpoint. The key is that of [audit]. Exit code 1 if
    something is wrong.

    \b
    Example:
      xksproxy audit verify audit.log.1 audit.log
    """
    key = read_audit_key(load_checked(config_file).audit)
    if key is None:
        print_error("the configuration chains no audit log: audit.chain is false", "set audit.chain and audit.key")
        sys.exit(COULD_NOT_RUN)
    verification = verify_lines(_lines(files), key)
    chains = list(verification.chains.values())
    if as_json:
        print_json({"chains": [_facts(chain) for chain in chains], "problems": verification.problems})
    else:
        for chain in chains:
            click.echo(_sentence(chain))
        for problem in verification.problems[:_SHOWN_PROBLEMS]:
            print_error(problem)
        if len(verification.problems) > _SHOWN_PROBLEMS:
            print_error(f"and {len(verification.problems) - _SHOWN_PROBLEMS} more")
    if verification.problems or not chains:
        if not chains:
            print_error("there is no line of a chain in it")
        sys.exit(FOUND_SOMETHING_WRONG)


def _lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from file


def _facts(chain: ChainReport) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(chain).items() if not name.startswith("_")}
    return facts | {"lines_after_checkpoint": chain.lines_after_checkpoint}


def _sentence(chain: ChainReport) -> str:
    head = f"chain {chain.id}: {chain.lines} lines, numbers {chain.first} to {chain.last}"
    if chain.checkpoint is None:
        return f"{head}; no checkpoint, so a cut-off end would not show"
    return (
        f"{head}; a cut-off end would show up to number {chain.checkpoint}, the checkpoint of {chain.checkpoint_time};"
        f" {chain.lines_after_checkpoint} lines follow it"
    )
