"""``xksproxy block``, ``unblock`` and ``status``: the customer's kill switch, and how things are."""

import http.client
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option, load_checked
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_table
from xksproxy.config.check import has_admin
from xksproxy.config.model import Config
from xksproxy.keystore.key_map import KeyMap
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.blocks import WHOLE_STORE, Block, block_table

_PATIENCE_SECONDS = 5.0

_key_option = click.option("--key", "key_id", metavar="ID", help="Only this external key; else the whole key store.")


@click.command()
@config_option
@keystore_option
@_key_option
@click.option("--reason", default="", help="Why; shown by status and in the audit log.")
def block(config_file: Path, keystore_name: str | None, key_id: str | None, reason: str) -> None:
    """Stop the use of a key store or of one external key, in every worker within a second, and after restarts.

    Encrypt and Decrypt answer InvalidStateException, GetKeyMetadata reports DISABLED, GetHealthStatus goes on. This
    reaches this machine only: run it on each. AWS services go on using data keys that they hold in memory, for as
    long as they keep them.

    \b
    Example:
      xksproxy block --keystore payments --key payments-2026 --reason "incident 4711"
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    name = _name(store.name, KeyMap(store.keys), key_id)
    entry = Block(time.time(), reason)
    block_table(Path(config.state.directory), store.name).update(name, lambda known: known or entry)
    click.echo(f"{_what(store.name, key_id)} is blocked on this machine, in every worker within a second")
    if config.server.fleet_size > 1:
        click.echo(f"this machine is one of {config.server.fleet_size}: run the command on the others too")
    click.echo("AWS services go on using data keys that they already hold, until they drop them")


@click.command()
@config_option
@keystore_option
@_key_option
def unblock(config_file: Path, keystore_name: str | None, key_id: str | None) -> None:
    """Allow the use of a key store or an external key again, on this machine.

    A key store's block and those of its keys are apart: unblocking one leaves the others.

    \b
    Example:
      xksproxy unblock --keystore payments --key payments-2026
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    table = block_table(Path(config.state.directory), store.name)
    name = WHOLE_STORE if key_id is None else key_id
    was: list[Block | None] = []

    def remove(known: Block | None) -> None:
        was.append(known)

    table.update(name, remove)
    if was == [None]:
        print_error(f"{_what(store.name, key_id)} is not blocked on this machine; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    click.echo(f"{_what(store.name, key_id)} is not blocked any more on this machine, within a second")
    if remaining := [other for other in table.entries() if other != name]:
        names = ", ".join("the whole key store" if other == WHOLE_STORE else other for other in sorted(remaining))
        click.echo(f"still blocked: {names}")


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(config_file: Path, *, as_json: bool) -> None:
    """Show how the proxy on this machine is: HSMs, key stores, keys, blocks and recent refusals.

    It asks the admin listener. Exit code 1 if something needs attention, 2 if no proxy answers.

    \b
    Example:
      xksproxy status
    """
    config = load_checked(config_file)
    document = _ask(config)
    if as_json:
        print_json(document)
    else:
        _tell(document)
    if _needs_attention(document):
        sys.exit(FOUND_SOMETHING_WRONG)


def _name(keystore: str, keys: KeyMap, key_id: str | None) -> str:
    if key_id is None:
        return WHOLE_STORE
    try:
        return keys.resolve(key_id).id
    except KeyNotFoundException:
        print_error(f"the key store {keystore} exposes no external key {key_id}; nothing was blocked")
        sys.exit(FOUND_SOMETHING_WRONG)


def _what(keystore: str, key_id: str | None) -> str:
    return f"the key store {keystore}" if key_id is None else f"the external key {key_id} of {keystore}"


def _ask(config: Config) -> dict[str, Any]:
    if not has_admin(config):
        print_error("the configuration has no admin listener to ask: admin.listen is off")
        sys.exit(COULD_NOT_RUN)
    host, _, port = config.admin.listen.rpartition(":")
    everywhere = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    connection = http.client.HTTPConnection(everywhere.get(host, host), int(port), timeout=_PATIENCE_SECONDS)
    try:
        connection.request("GET", "/status")
        document: dict[str, Any] = json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException) as error:
        print_error(f"no proxy answers at http://{config.admin.listen}/status: {error}")
        sys.exit(COULD_NOT_RUN)
    finally:
        connection.close()
    return document


def _tell(document: dict[str, Any]) -> None:
    ready = "serving" if document["ready"] else "NOT READY"
    workers = len(document["workers"])
    click.echo(f"{document['machine']}  {ready}  xksproxy {document['version']}, {workers} workers\n")
    for problem in document["problems"]:
        click.echo(f"PROBLEM: {problem}\n")
    print_table(
        ("HSM", "STATE", "SERVED BY", "SESSIONS", "STUCK", "DEVICE"),
        [
            (
                hsm["id"],
                f"{hsm['state']}: {hsm['reason']}" if hsm["reason"] else hsm["state"],
                f"{hsm['workers_served']} of {hsm['workers']} workers",
                str(hsm["sessions"]),
                str(hsm["stuck_sessions"]),
                hsm["model"],
            )
            for hsm in document["hsms"]
        ],
    )
    click.echo()
    print_table(
        ("KEY STORE", "EXTERNAL KEY", "STATE", "VERSION", "ENCRYPTIONS"),
        [row for store in document["keystores"] for row in _key_rows(store)],
    )
    if document["refusals"]:
        click.echo()
        columns = ("COUNT", "ERROR", "OPERATION", "KEY STORE", "REASON")
        names = ("count", "error", "operation", "keystore", "reason")
        print_table(columns, [tuple(str(row[name]) for name in names) for row in document["refusals"]])


def _key_rows(store: dict[str, Any]) -> list[tuple[str, ...]]:
    head = (store["name"], "", "BLOCKED" if store["blocked"] else "ready" if store["ready"] else "NO HSM", "", "")
    return [head, *(_key_row(key) for key in store["keys"])]


def _key_row(key: dict[str, Any]) -> tuple[str, ...]:
    blocked = key.get("blocked")
    why = f": {blocked['reason']}" if blocked and blocked["reason"] else ""
    encryptions = f"{key['encryptions']:,}" if "encryptions" in key else ""
    return ("", key["id"], f"{key['state']}{why}", str(key.get("version", "")), encryptions)


def _needs_attention(document: dict[str, Any]) -> bool:
    return (
        not document["ready"]
        or any(hsm["workers_served"] < hsm["workers"] or hsm["stuck_sessions"] for hsm in document["hsms"])
        or any(store["blocked"] or not store["ready"] for store in document["keystores"])
        or any(key.get("blocked") for store in document["keystores"] for key in store["keys"])
    )
