"""The commands by name. Each is imported when it is used; those of xksproxy-tools are loaded if that is installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from xksproxy.cli.output import COULD_NOT_RUN, print_error
from xksproxy.printable import printable

_COMMANDS: Final = {
    "audit": "audit:audit",
    "block": "block:block",
    "call": "call:call",
    "check-config": "check_config:check_config",
    "credentials": "credentials:credentials",
    "hsm": "hsm:hsm",
    "import-settings": "import_settings:import_settings",
    "keys": "keys:keys",
    "kms-config": "kms_config:kms_config",
    "policy": "policy:policy",
    "reload": "reload:reload_configuration",
    "serve": "serve:serve",
    "state": "state:state",
    "status": "status:status",
    "unblock": "block:unblock",
    "version": "version:version",
}
"""The module of each command, in this package, and its name there."""

_ENTRY_POINT_GROUP: Final = "xksproxy.commands"
_TOOLS: Final = {
    "bench": "Put load on an XKS proxy, and measure its answers.",
    "conformance": "Check an XKS proxy against the specification, from outside.",
    "dev": "Try the proxy on this machine.",
    "kms-emulator": "Emulate AWS KMS on this machine.",
}


class Commands(click.Group):
    """The group of all commands. A command imports what it needs and no more: an operator waits for each import."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls it
        """Return the names of all commands, including those that are not installed."""
        return sorted({*_COMMANDS, *_TOOLS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command. If a tool is not installed, its command prints how to install it."""
        if cmd_name in _TOOLS:
            return _command_of_tools(cmd_name)
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(f"xksproxy.cli.{module}"), name)
        return command

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


def _command_of_tools(name: str) -> click.Command:
    from importlib.metadata import entry_points  # noqa: PLC0415  # slow to import, and only these commands need it

    for entry_point in entry_points(group=_ENTRY_POINT_GROUP, name=name):
        command: click.Command = entry_point.load()
        return command
    return _not_installed(name)


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
