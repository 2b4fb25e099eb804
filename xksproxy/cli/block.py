"""``xksproxy block`` and ``xksproxy unblock``: stop the use of a key store or a key, and allow it again."""

import sys
import time
from pathlib import Path

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option, load_checked
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.pasted import ID
from xksproxy.keystore.key_map import KeyMap
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.blocks import WHOLE_STORE, Block, block_table

_key_option = click.option(
    "--key", "key_id", metavar="ID", type=ID, help="Only this external key, not the whole key store."
)


@click.command()
@config_option
@keystore_option
@_key_option
@click.option("--reason", default="", help="Why. `status` and the audit log show it.")
def block(config_file: Path, keystore_name: str | None, key_id: str | None, reason: str) -> None:
    """Stop the use of a key store or of one external key, in every worker within a second. A block survives restarts.

    Encrypt and Decrypt answer InvalidStateException. GetKeyMetadata reports DISABLED. GetHealthStatus is not affected.
    The block applies to this machine only: run the command on each machine. AWS services can continue to use data keys
    that they have in memory.

    \b
    Example:
      xksproxy block --keystore payments --key payments-2026 --reason "incident 4711"
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    name = _block_name(store.name, KeyMap(store.keys), key_id)
    entry = Block(time.time(), reason)
    block_table(Path(config.state.directory), store.name).update(name, lambda existing: existing or entry)
    print_line(f"{_description(store.name, key_id)} is blocked on this machine, in every worker within a second")
    if config.server.fleet_size > 1:
        print_line(f"this machine is one of {config.server.fleet_size}: run the command on the others too")
    print_line("AWS services can continue to use data keys that they have in memory")


@click.command()
@config_option
@keystore_option
@_key_option
def unblock(config_file: Path, keystore_name: str | None, key_id: str | None) -> None:
    """Allow the use of a key store or an external key again, on this machine.

    The block of a key store and the blocks of its keys are separate: if one is removed, the others stay.

    \b
    Example:
      xksproxy unblock --keystore payments --key payments-2026
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    table = block_table(Path(config.state.directory), store.name)
    name = WHOLE_STORE if key_id is None else key_id
    removed: list[Block | None] = []

    def remove(existing: Block | None) -> None:
        removed.append(existing)

    table.update(name, remove)
    if removed == [None]:
        print_error(f"{_description(store.name, key_id)} is not blocked on this machine; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    print_line(f"{_description(store.name, key_id)} is no longer blocked on this machine, within a second")
    if remaining := [other for other in table.entries() if other != name]:
        names = ", ".join("the whole key store" if other == WHOLE_STORE else other for other in sorted(remaining))
        print_line(f"still blocked: {names}")


def _block_name(keystore: str, keys: KeyMap, key_id: str | None) -> str:
    if key_id is None:
        return WHOLE_STORE
    try:
        return keys.resolve(key_id).id
    except KeyNotFoundException:
        print_error(f"the key store {keystore} exposes no external key {key_id}; nothing was blocked")
        sys.exit(FOUND_SOMETHING_WRONG)


def _description(keystore: str, key_id: str | None) -> str:
    return f"the key store {keystore}" if key_id is None else f"the external key {key_id} of {keystore}"
