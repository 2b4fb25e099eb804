"""The option ``--hsm``, and a session on the HSM that it names."""

from pathlib import Path

import click

from xksproxy.cli.config_option import choose_keystore
from xksproxy.cli.output import print_progress
from xksproxy.config.model import Config, KeyStore
from xksproxy.config.pins import read_pin
from xksproxy.hsm.instance.command_sessions import open_session
from xksproxy.hsm.instance.session import HsmSession

hsm_option = click.option("--hsm", "hsm_id", help="The HSM, if the key store has several.  [default: the first]")
"""Add ``--hsm ID``; see :func:`open_on_hsm`."""


def open_on_hsm(config: Config, keystore_name: str | None, hsm_id: str | None) -> tuple[KeyStore, HsmSession]:
    """Choose a key store and one of its HSMs, and log in.

    Raises:
        click.UsageError: there is no such key store, or it has no such HSM.
        HsmError: the HSM does not answer, or refuses the log-in.
    """
    store = choose_keystore(config, keystore_name)
    if hsm_id not in (None, *store.hsms):
        raise click.UsageError(f"the key store {store.name} has no HSM {hsm_id}; it has: {', '.join(store.hsms)}")
    hsm = next(hsm for hsm in config.hsm if hsm.id == (hsm_id or store.hsms[0]))
    return store, open_session(hsm, read_pin(hsm), Path(config.state.directory), config.hsm, print_progress)
