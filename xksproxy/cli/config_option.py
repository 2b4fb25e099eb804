"""The option ``--config``, and loading what it names."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from xksproxy.authorization.findings import findings
from xksproxy.authorization.policies import load_policies
from xksproxy.config.certificatechecks import certificate_problems
from xksproxy.config.check import check_config
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, KeyStore
from xksproxy.hsm.pkcs11.presets import quirks_of
from xksproxy.keystore.key_map import KeyMap
from xksproxy.keystore.versions import version_problems
from xksproxy.server.tls import build_context
from xksproxy.state.statefile import StateUnusable
from xksproxy.state.versions import version_table


def config_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--config FILE``, which the variable XKSPROXY_CONFIG can stand in for."""
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="XKSPROXY_CONFIG",
        show_envvar=True,
        required=True,
        help="The configuration file.",
    )(function)


keystore_option = click.option("--keystore", "keystore_name", help="The key store, where there are several.")
"""Add ``--keystore NAME``; see :func:`choose_keystore`."""


def load_checked(path: Path) -> Config:
    """Load a configuration and check all that can be checked without the HSM.

    Raises:
        ConfigError: with every problem found.
    """
    config = load_config(path)
    if problems := problems_of(config):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return config


def problems_of(config: Config) -> list[str]:
    """Why a configuration cannot be served: all that can be known without the HSM."""
    problems = [
        *check_config(config),
        *_quirk_problems(config),
        *_policy_problems(config),
        *_version_problems(config),
    ]
    if any(problem.startswith("server.tls") for problem in problems):
        return problems
    try:
        build_context(config.server.tls)
    except ConfigError as error:
        # OpenSSL names the function that failed; the certificates themselves say why.
        return [*problems, *(list(certificate_problems(config.server.tls)) or error.problems)]
    return problems


def _quirk_problems(config: Config) -> Iterator[str]:
    for index, hsm in enumerate(config.hsm):
        try:
            quirks_of(hsm)
        except ValueError as error:
            yield f"hsm[{index}]: {error}"


def _version_problems(config: Config) -> Iterator[str]:
    for index, store in enumerate(config.keystore):
        records = version_table(Path(config.state.directory), store.name)
        # A record that cannot be read is the workers' concern: they refuse Encrypt, and Decrypt goes on.
        with suppress(StateUnusable):
            yield from version_problems(f"keystore[{index}]", KeyMap(store.keys).named_keys(), records)


def _policy_problems(config: Config) -> Iterator[str]:
    for index, store in enumerate(config.keystore):
        if store.policies is None and store.policy_mode == "audit":
            yield f"keystore[{index}].policy_mode: there are no policies to audit"
        if store.policies is None:
            continue
        try:
            load_policies(store.policies)
        except ConfigError as error:
            yield from (f"keystore[{index}].policies: {problem}" for problem in error.problems)


def policy_warnings(config: Config) -> Iterator[str]:
    """What is probably a mistake in the policies of a checked configuration, and no reason to refuse it."""
    for index, store in enumerate(config.keystore):
        if store.policies is not None:
            found = findings(load_policies(store.policies), KeyMap(store.keys).exposes)
            yield from (f"keystore[{index}].policies: {finding}" for finding in found)


def choose_keystore(config: Config, name: str | None) -> KeyStore:
    """The key store of a name, or the only one.

    Raises:
        click.UsageError: there is none of the name, or several and no name.
    """
    names = ", ".join(store.name for store in config.keystore)
    if name is None:
        if len(config.keystore) > 1:
            raise click.UsageError(f"say which key store with --keystore: {names}")
        return config.keystore[0]
    for store in config.keystore:
        if store.name == name:
            return store
    raise click.UsageError(f"no key store is called {name}; there are: {names}")
