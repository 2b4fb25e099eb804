"""The commands by name. Each is imported when it is used; those of xksproxy-tools are loaded if that is installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

import click

from xksproxy.cli.open_files import require_open_files
from xksproxy.cli.output import COULD_NOT_RUN, print_error
from xksproxy.printable import printable

_COMMANDS: Final = {
    "audit": ("audit:audit", "Check audit logs."),
    "block": (
        "block:block",
        "Stop the use of a key store, of one external key, or of all key stores, in every worker.",
    ),
    "call": ("call:call", "Send one signed request to a proxy and print the response."),
    "check-config": ("check_config:check_config", "Check a configuration and report all problems at once."),
    "credentials": (
        "credentials:credentials",
        "Create, list, retire and reinstate the credentials with which KMS signs requests.",
    ),
    "hsm": ("hsm:hsm", "Manage the HSMs."),
    "import-settings": (
        "import_settings:import_settings",
        "Convert the settings of AWS's sample proxy (aws-kms-xks-proxy) to a configuration directory of this proxy.",
    ),
    "keys": ("keys:keys", "List, show, create and rotate the keys of a key store."),
    "kms-config": ("kms_config:kms_config", "Print the parameters of a key store for AWS KMS."),
    "policy": ("policy:policy", "Show what the policies of a key store decide."),
    "reload": (
        "reload:reload_configuration",
        "Make the proxy on this machine read its configuration again, and report whether it uses it.",
    ),
    "serve": ("serve:serve", "Run the proxy in the foreground, as a systemd service does."),
    "state": (
        "state:state",
        "Back up, restore and check the state directory: blocks, key versions, counts, retired credentials.",
    ),
    "status": (
        "status:status",
        "Show the state of the proxy on this machine: HSMs, key stores, keys, blocks and recent refusals.",
    ),
    "unblock": ("block:unblock", "Allow the use of a key store or an external key again, on this machine."),
    "version": ("version:version", "Print the version of xksproxy, of Python, of OpenSSL and of the main libraries."),
}
"""The module of each command, in this package, its name there, and the first sentence of its help."""

_ENTRY_POINT_GROUP: Final = "xksproxy.commands"
_TOOLS: Final = {
    "bench": "Put load on any XKS proxy as AWS KMS does, and measure its responses.",
    "conformance": "Check any XKS proxy against every requirement of the specification, from outside.",
    "dev": "Try the proxy on this machine, with a SoftHSM2 token and a development CA.",
    "kms-emulator": "Emulate AWS KMS on this machine, for tests and for learning.",
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
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"xksproxy.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them, so that this works wherever Python does."""
        summaries = {name: summary for name, (_, summary) in _COMMANDS.items()}
        summaries |= {name: f"{summary} (in xksproxy-tools)" for name, summary in _TOOLS.items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(summaries.items()))

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
    require_open_files()
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
        help=f"{_TOOLS[name]}\n\nNot installed here: pip install xksproxy-tools",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
