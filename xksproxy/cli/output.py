"""How commands speak: facts on standard output, complaints on standard error."""

import json
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from xksproxy.hsm.errors import LoginRefused

FOUND_SOMETHING_WRONG: Final = 1
COULD_NOT_RUN: Final = 2
_WIDER_THAN_ANY_TABLE: Final = 100_000


def print_error(what: str, *more: str) -> None:
    """Say on standard error what is wrong, further lines indented."""
    click.echo(f"xksproxy: {what}", err=True)
    for line in more:
        click.echo(f"  {line}", err=True)


def explain(error: Exception) -> tuple[str, ...]:
    """What to try next, where that is known."""
    if isinstance(error, LoginRefused):
        return ("check the pin of this [[hsm]]; some tokens lock after three wrong ones, so do not guess",)
    return ()


def print_json(facts: Any) -> None:
    """MachineInfo for a machine."""
    click.echo(json.dumps(facts, indent=2))


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """MachineInfo for a person; every value whole, also where the output is narrow or no terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDER_THAN_ANY_TABLE
    console.print(table)
