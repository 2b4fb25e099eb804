"""``--resolve``: where to find a host of a proxy that has no name service or no port 443 of its own."""

from collections.abc import Sequence
from typing import Final

import click

from xksproxy_tools.kms_emulator.proxy.connection import Peer, parse_connect_rule


def _parsed(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[Peer, Peer]:
    try:
        return dict(parse_connect_rule(value) for value in values)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


resolve_option: Final = click.option(
    "--resolve",
    "rules",
    multiple=True,
    metavar="HOST:443=ADDRESS:PORT",
    callback=_parsed,
    help="Connect there instead, under the same name; as often as needed.",
)
