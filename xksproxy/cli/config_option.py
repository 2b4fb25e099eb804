"""The options ``--config`` and ``--keystore``, and the loading of a configuration by its owner."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.pasted import ID
from xksproxy.cli.privilege import become_owner
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, KeyStore


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config FILE``. The environment variable XKSPROXY_CONFIG replaces it."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        envvar="XKSPROXY_CONFIG",
        show_envvar=True,
        required=True,
        help="The configuration file.",
    )(function)


keystore_option = click.option("--keystore", "keystore_name", type=ID, help="The key store, if there are several.")
"""Add ``--keystore NAME``; see :func:`choose_keystore`."""


def load_as_owner(path: Path) -> Config:
    """Load a configuration, and become the owner of its state directory before anything in it is accessed.

    Raises:
        ConfigError: the file cannot be used.
        WrongUser: this user is neither root nor the owner.
    """
    config = load_config(path)
    become_owner(Path(config.state.directory))
    return config


def choose_keystore(config: Config, name: str | None) -> KeyStore:
    """Return the key store with a name, or the only key store.

    Raises:
        click.UsageError: no key store has the name, or there are several and no name is given.
    """
    names = ", ".join(store.name for store in config.keystore)
    if name is None:
        if len(config.keystore) > 1:
            raise click.UsageError(f"there are several key stores; choose one with --keystore: {names}")
        return config.keystore[0]
    for store in config.keystore:
        if store.name == name:
            return store
    raise click.UsageError(f"no key store has the name {name}; expected one of: {names}")
