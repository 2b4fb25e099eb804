"""``--resolve``: the address of a host without a DNS entry or on another port than 443."""

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
    help="Connect to this address instead, with the same host name. Can be repeated.",
)
