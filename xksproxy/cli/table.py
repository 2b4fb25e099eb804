"""Tables on standard output. It is a module of its own because its import takes long, and few commands print one."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from xksproxy.cli.output import write_output
from xksproxy.printable import printable

_WIDER_THAN_ANY_TABLE: Final = 100_000


def print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table for people. Values are never cut: a narrow terminal gets several lines per row.

    Characters that are not printable are escaped, because a value may come from a caller.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDER_THAN_ANY_TABLE
    with console.capture() as captured:
        console.print(table)
    write_output(captured.get())
