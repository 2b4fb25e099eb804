"""``xksproxy block`` and ``xksproxy unblock``: stop the use of a key store or a key, and allow it again."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from xksproxy.cli.block_target import STATE_OPTIONS, BlockTarget, find_target
from xksproxy.cli.doubt import require_newest
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.pasted import ID, KEY_ID
from xksproxy.cli.privilege import become_owner
from xksproxy.cli.record_event import record_event
from xksproxy.cli.report_followers import report_followers
from xksproxy.server.followers import holds, known_to_workers
from xksproxy.state.blocks import WHOLE_STORE, Block, block_table
from xksproxy.state.reserve import with_reserve
from xksproxy.state.state_file import StateUnusable

_OPTIONS = (
    *STATE_OPTIONS,
    click.option("--keystore", "keystore_name", type=ID, help="The key store, if there are several."),
    click.option("--key", "key_id", metavar="ID", type=KEY_ID, help="Only this external key, not the whole key store."),
    click.option("--all", "all_stores", is_flag=True, help="All key stores of this machine, whatever their names."),
)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@_options
@click.option("--reason", default="", help="Why. `status` and the audit log show it.")
def block(
    *,
    config_file: Path | None,
    state_directory: Path | None,
    keystore_name: str | None,
    key_id: str | None,
    all_stores: bool,
    reason: str,
) -> None:
    """Stop the use of a key store, of one external key, or of all key stores, in every worker.

    A block survives restarts. Encrypt and Decrypt answer InvalidStateException. GetKeyMetadata reports DISABLED.
    GetHealthStatus is not affected. The block applies to this machine only: run the command on each machine. AWS
    services can continue to use data keys that they have in memory. The command needs the state directory only, so it
    works with a broken configuration, and on a full disk. It waits until every worker follows; exit code 1 if one does
    not.

    \b
    Example:
      xksproxy block --keystore payments --key payments-2026 --reason "incident 4711"
      xksproxy block --state /var/lib/xksproxy --all
    """
    target = _target(config_file, state_directory, keystore_name, key_id, all_stores=all_stores)
    if key_id is not None and target.exposes(key_id) is False:
        print_error(f"the key store {target.keystore} exposes no external key {key_id}; nothing was blocked")
        sys.exit(FOUND_SOMETHING_WRONG)
    become_owner(target.state_directory)
    table = block_table(target.state_directory, target.keystore)
    table.expect_revision(known_to_workers(target.state_directory, table.path.name))
    entry = Block(time.time(), reason)
    before: list[Block | None] = []

    def add(existing: Block | None) -> Block:
        before.append(existing)
        return existing or entry

    name = WHOLE_STORE if key_id is None else key_id
    try:
        after = with_reserve(target.state_directory, lambda: table.update(name, add))
    except StateUnusable as error:
        print_error(
            f"the block could not be written: {error}",
            "to stop all use of the keys on this machine, stop the service: systemctl stop xksproxy",
            "to stop it in AWS: aws kms disconnect-custom-key-store --custom-key-store-id ID",
        )
        sys.exit(COULD_NOT_RUN)
    try:
        # Before anything is printed, which fails if standard output was closed by its reader.
        _record(target, key_id, "block set", before[-1], after)
    finally:
        _print_blocked(target, key_id)
        report_followers(target.state_directory, holds(table))


@click.command()
@_options
def unblock(
    *,
    config_file: Path | None,
    state_directory: Path | None,
    keystore_name: str | None,
    key_id: str | None,
    all_stores: bool,
) -> None:
    """Allow the use of a key store or an external key again, on this machine.

    The block of all key stores, that of each key store and those of its keys are separate: if one is removed, the
    others stay.

    \b
    Example:
      xksproxy unblock --keystore payments --key payments-2026
    """
    target = _target(config_file, state_directory, keystore_name, key_id, all_stores=all_stores)
    become_owner(target.state_directory)
    require_newest(target.state_directory, target.config)
    table = block_table(target.state_directory, target.keystore)
    table.expect_revision(known_to_workers(target.state_directory, table.path.name))
    name = WHOLE_STORE if key_id is None else key_id
    removed: list[Block | None] = []

    def remove(existing: Block | None) -> None:
        removed.append(existing)

    table.update(name, remove)
    remaining = _remaining(table.entries(), name)
    if removed == [None]:
        print_error(f"{_description(target, key_id)} is not blocked on this machine; nothing was changed", *remaining)
        sys.exit(FOUND_SOMETHING_WRONG)
    _record(target, key_id, "block removed", removed[-1], None)
    print_line(f"{_description(target, key_id)} is no longer blocked on this machine")
    for line in remaining:
        print_line(line)
    report_followers(target.state_directory, holds(table))


def _target(
    config_file: Path | None,
    state_directory: Path | None,
    keystore_name: str | None,
    key_id: str | None,
    *,
    all_stores: bool,
) -> BlockTarget:
    if all_stores and (keystore_name, key_id) != (None, None):
        raise click.UsageError("--all stands for all key stores; leave out --keystore and --key")
    return find_target(config_file, state_directory, keystore_name, all_stores=all_stores)


def _print_blocked(target: BlockTarget, key_id: str | None) -> None:
    print_line(f"{_description(target, key_id)} is blocked on this machine")
    if key_id is not None and target.exposes(key_id) is None:
        print_line(f"the configuration cannot be used, so it was not checked that the key store exposes {key_id}")
    if target.machines > 1:
        print_line(f"this machine is one of {target.machines}: run the command on the others too")
    print_line("AWS services can continue to use data keys that they have in memory")


def _remaining(blocks: Mapping[str, Block], removed: str) -> tuple[str, ...]:
    """A line with the blocks that stay, if there are any."""
    names = ["the whole key store" if name == WHOLE_STORE else name for name in sorted(blocks) if name != removed]
    return (f"still blocked: {', '.join(names)}",) if names else ()


def _record(target: BlockTarget, key_id: str | None, message: str, before: Block | None, after: Block | None) -> None:
    values = {"before": msgspec.to_builtins(before), "after": msgspec.to_builtins(after)}
    record_event(target.state_directory, message, keystore=target.keystore, key_id=key_id, **values)


def _description(target: BlockTarget, key_id: str | None) -> str:
    if target.keystore is None:
        return "each key store"
    return f"the key store {target.keystore}" if key_id is None else f"the external key {key_id} of {target.keystore}"
