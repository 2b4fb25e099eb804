"""The commands of the distribution xksproxy-tools. They are loaded from it if it is installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any, Final

import click

from xksproxy.cli.output import COULD_NOT_RUN, print_error
from xksproxy.printable import printable

_ENTRY_POINT_GROUP: Final = "xksproxy.commands"
_TOOLS: Final = {
    "bench": "Put load on an XKS proxy, and measure its answers.",
    "conformance": "Check an XKS proxy against the specification, from outside.",
    "dev": "Try the proxy on this machine.",
    "kms-emulator": "Emulate AWS KMS on this machine.",
}


class CommandsOfTools(click.Group):
    """A group that also has the commands of xksproxy-tools. Each is loaded when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, including those that are not installed."""
        return sorted({*super().list_commands(ctx), *_TOOLS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command. If a tool is not installed, its command prints how to install it."""
        if cmd_name not in _TOOLS:
            return super().get_command(ctx, cmd_name)
        for entry_point in entry_points(group=_ENTRY_POINT_GROUP, name=cmd_name):
            command: click.Command = entry_point.load()
            return command
        return _not_installed(cmd_name)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Parse the command line."""
        with _printable_errors():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _printable_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_errors() -> Iterator[None]:
    """Escape the messages that click prints by itself: they quote the command line, and what was read from files."""
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]  # final by name only; it is what click prints
        raise


def _not_installed(name: str) -> click.Command:
    def refuse() -> None:
        print_error(f"{name} needs the tools, which are not installed: pip install xksproxy-tools")
        sys.exit(COULD_NOT_RUN)

    return click.Command(
        name,
        callback=refuse,
        short_help=f"{_TOOLS[name]} (needs xksproxy-tools)",
        help=f"{_TOOLS[name]}\n\nNot installed here: pip install xksproxy-tools",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
