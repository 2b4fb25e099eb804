"""``xksproxy hsm``: what an operator does about an HSM."""

import sys
from pathlib import Path

import click

from xksproxy.cli.config_option import config_option, load_checked
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error
from xksproxy.hsm.pkcs11.pin_guard import PinGuard


@click.group()
def hsm() -> None:
    """Look after the HSMs.

    \b
    Example:
      xksproxy hsm allow-login hsm-1
    """


@hsm.command("allow-login")
@config_option
@click.argument("hsm_id", metavar="ID")
def allow_login(config_file: Path, hsm_id: str) -> None:
    """Allow another log-in with a PIN that the token refused, on this machine.

    A refused PIN is not tried again by any worker or after a restart, because tokens lock after a few wrong ones. A
    changed PIN is tried by itself; this is for the same PIN, once the token is known to accept it. Workers try within
    half a minute.

    \b
    Example:
      xksproxy hsm allow-login hsm-1
    """
    config = load_checked(config_file)
    if hsm_id not in {item.id for item in config.hsm}:
        known = ", ".join(item.id for item in config.hsm)
        raise click.UsageError(f"no [[hsm]] has the id {hsm_id}; there are: {known}")
    if not PinGuard(Path(config.state.directory)).forget(hsm_id):
        print_error(f"no PIN of {hsm_id} was refused on this machine; nothing was stopped")
        sys.exit(FOUND_SOMETHING_WRONG)
    click.echo(
        f"the next log-in on {hsm_id} may try its PIN again; if that is wrong, it counts towards the token's lock"
    )
