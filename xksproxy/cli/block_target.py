"""Finds the key store and the state directory for a block, also in a configuration that has other errors."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.config_option import choose_keystore
from xksproxy.cli.output import print_progress
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config, load_readable_lines, load_tables
from xksproxy.config.model import Config, State
from xksproxy.config.regular_file import FileRefused
from xksproxy.keystore.key_map import KeyMap

STATE_OPTIONS = (
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        envvar="XKSPROXY_CONFIG",
        show_envvar=True,
        help="The configuration file. Other parts of it may be wrong.",
    ),
    click.option(
        "--state",
        "state_directory",
        type=click.Path(path_type=Path, file_okay=False),
        help="The state directory, if there is no configuration that can be read.",
    ),
)
"""The options of commands that need the state directory only."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class BlockTarget:
    """A key store on this machine, or all of them."""

    state_directory: Path
    keystore: str | None
    """None stands for all key stores."""

    machines: int = 1
    """The number of machines of the fleet; 1 if the configuration cannot be used."""

    keys: KeyMap | None = None
    """None if the configuration cannot be used."""

    config: Config | None = None
    """None if the configuration cannot be used."""

    def exposes(self, key_id: str) -> bool | None:
        """Whether the key store exposes an id; None if that is not known."""
        return None if self.keys is None else self.keys.exposes(key_id)


def find_target(
    config_file: Path | None, state_directory: Path | None, keystore_name: str | None, *, all_stores: bool = False
) -> BlockTarget:
    """Find state directory and key store: by the options alone, or in the configuration, even if it is not valid.

    With ``all_stores`` no key store is looked for.

    Raises:
        ConfigError: the configuration is not TOML, or does not name them.
        click.UsageError: an option is missing or names no key store.
    """
    if state_directory is not None:
        if keystore_name is None and not all_stores:
            raise click.UsageError("--state needs --keystore NAME or --all")
        return BlockTarget(state_directory.absolute(), None if keystore_name is None else _checked(keystore_name))
    if config_file is None:
        raise click.UsageError("give --config FILE, or --state DIRECTORY and --keystore NAME or --all")
    try:
        config = load_config(config_file)
    except ConfigError as error:
        return _of_broken_configuration(config_file, keystore_name, error, all_stores=all_stores)
    if all_stores:
        return BlockTarget(Path(config.state.directory), None, config.server.fleet_size, config=config)
    store = choose_keystore(config, keystore_name)
    keys = KeyMap(store.keys, config.server.fleet_size)
    directory = Path(config.state.directory)
    return BlockTarget(directory, store.name, config.server.fleet_size, keys, config)


def find_state_directory(config_file: Path) -> Path:
    """Find the state directory of a configuration, even if that is not valid.

    Raises:
        ConfigError: the configuration is not TOML, or does not name it.
    """
    try:
        return Path(load_config(config_file).state.directory)
    except ConfigError as error:
        return _read_broken(config_file, error)[0]


def _read_broken(path: Path, error: ConfigError) -> tuple[Path, list[str]]:
    """The state directory and the key stores of a configuration with errors, or else these errors."""
    try:
        named, names = _named_in(path)
    except (FileRefused, ValueError, TypeError, AttributeError):
        raise error from None
    directory = path.absolute().parent / named
    print_progress(f"{path} has errors; using the state directory {directory}")
    return directory, names


def _of_broken_configuration(
    path: Path, keystore_name: str | None, error: ConfigError, *, all_stores: bool
) -> BlockTarget:
    try:
        directory, names = _read_broken(path, error)
    except ConfigError:
        hint = "to block nevertheless: xksproxy block --state DIRECTORY --keystore NAME, or --all"
        raise ConfigError([*error.problems, hint]) from None
    if all_stores:
        return BlockTarget(directory, None)
    if keystore_name is None and len(names) != 1:
        raise click.UsageError(f"choose a key store with --keystore; the configuration names: {', '.join(names)}")
    if keystore_name is not None and keystore_name not in names:
        raise click.UsageError(f"no key store has the name {keystore_name}; expected one of: {', '.join(names)}")
    return BlockTarget(directory, _checked(keystore_name or names[0]))


def _named_in(path: Path) -> tuple[str, list[str]]:
    """The state directory and the key stores that a configuration with errors names.

    Raises:
        FileRefused: it cannot be read.
        ValueError, TypeError, AttributeError: it does not say what the state directory is.
    """
    directory = State().directory
    try:
        tables = load_tables(path)
    except (ValueError, RecursionError):
        tables = load_readable_lines(path)
        if "" in tables.get("state", {}) or not Path(directory).is_dir():
            # Its own directory may be the part that cannot be read.
            directory = ""
    directory = _member(tables.get("state", {}), "directory") or directory
    if not directory:
        raise ValueError("no state directory")
    return directory, [name for store in tables.get("keystore", []) if (name := _member(store, "name"))]


def _member(table: Any, name: str) -> str | None:
    value = table.get(name) if isinstance(table, dict) else None
    return value if isinstance(value, str) else None


def _checked(keystore: str) -> str:
    if not _NAME.fullmatch(keystore):
        raise click.UsageError(f"{keystore!r} cannot be the name of a key store")
    return keystore
