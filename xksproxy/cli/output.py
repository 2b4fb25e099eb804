"""Output of the commands: results on standard output, errors on standard error."""

import json
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from xksproxy.hsm.errors import LoginRefused
from xksproxy.telemetry.lines import escape

FOUND_SOMETHING_WRONG: Final = 1
COULD_NOT_RUN: Final = 2
_WIDER_THAN_ANY_TABLE: Final = 100_000


def print_error(message: str, *more: str) -> None:
    """Print an error message to standard error, with further lines indented."""
    click.echo(f"xksproxy: {message}", err=True)
    for line in more:
        click.echo(f"  {line}", err=True)


def explain(error: Exception) -> tuple[str, ...]:
    """Return hints for an error, if there are any."""
    if isinstance(error, LoginRefused):
        return ("check the pin of this [[hsm]]; some tokens lock after three wrong PINs, so do not guess",)
    return ()


def print_json(document: Any) -> None:
    """Print a document as JSON."""
    click.echo(json.dumps(document, indent=2))


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table for people. Values are never cut: a narrow terminal gets several lines per row.

    Characters that are not printable are escaped, because a value may come from a caller.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDER_THAN_ANY_TABLE
    console.print(table)
