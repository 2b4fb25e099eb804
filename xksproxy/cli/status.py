"""``xksproxy status``: the state of the proxy on this machine."""

import http
import http.client
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import msgspec

from xksproxy.cli.config_option import config_option
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.pasted import ID
from xksproxy.cli.table import print_table
from xksproxy.config.check import LISTENER_OFF
from xksproxy.config.load import load_config, load_readable_lines, load_tables
from xksproxy.config.model import Admin
from xksproxy.config.regular_file import FileRefused

_TIMEOUT_SECONDS = 5.0
_OTHER_DOCUMENT = (AttributeError, KeyError, TypeError, ValueError)
"""What a JSON document that is no status raises when it is read as one."""


@click.command()
@config_option
@click.option("--keystore", metavar="NAME", type=ID, help="Show this key store with its keys.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(config_file: Path, *, keystore: str | None, as_json: bool) -> None:
    """Show the state of the proxy on this machine: HSMs, key stores, keys, blocks and recent refusals.

    The command reads it from the admin listener. Exit code 1 if something needs attention, 2 if no proxy answers. Only
    [admin] of the configuration is read, so that the rest may be wrong. Of more than 100 key stores, those that need
    attention are listed; --keystore shows any of them.

    \b
    Example:
      xksproxy status
      xksproxy status --keystore payments
    """
    listen = _admin_listener(config_file)
    document = _read_status(listen, keystore)
    try:
        needs_attention = _needs_attention(document)
        if as_json:
            print_json(document)
        else:
            _print_status(document)
    except _OTHER_DOCUMENT:
        print_error(
            f"what http://{listen}/status answers is not the status of a proxy of this release: another program listens"
            " there, or a proxy of another release, which must be restarted"
        )
        sys.exit(COULD_NOT_RUN)
    if needs_attention:
        sys.exit(FOUND_SOMETHING_WRONG)


def _admin_listener(config_file: Path) -> str:
    """``admin.listen``. A file in which it cannot be found is loaded whole, for an error that names what is wrong."""
    try:
        listen = msgspec.convert(_admin_table(config_file), Admin).listen
    except (FileRefused, ValueError):
        listen = load_config(config_file).admin.listen
    if listen == LISTENER_OFF:
        print_error("the configuration has no admin listener: admin.listen is off; set it to an address and port")
        sys.exit(COULD_NOT_RUN)
    return listen


def _admin_table(config_file: Path) -> dict[str, Any]:
    """The table, also of a file that is not TOML as a whole, if all of the table is and has ``listen``.

    Raises:
        FileRefused: the file cannot be read.
        ValueError: it is not TOML, and its table cannot be found.
    """
    try:
        table: dict[str, Any] = load_tables(config_file).get("admin", {})
    except (ValueError, RecursionError):
        table = load_readable_lines(config_file).get("admin", {})
        if "" in table or "listen" not in table:
            raise
    return table


def _read_status(listen: str, keystore: str | None) -> dict[str, Any]:
    host, _, port = listen.rpartition(":")
    wildcards = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    connection = http.client.HTTPConnection(wildcards.get(host, host), int(port), timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/status" if keystore is None else f"/status?{urlencode({'keystore': keystore})}")
        answer = connection.getresponse()
        if answer.status == http.HTTPStatus.NOT_FOUND and keystore is not None:
            print_error(f"the proxy has no key store {keystore!r}")
            sys.exit(COULD_NOT_RUN)
        if answer.status != http.HTTPStatus.OK:
            print_error(f"the proxy cannot report its status: it answers {answer.status}; its log says why")
            sys.exit(COULD_NOT_RUN)
        document: dict[str, Any] = json.load(answer)
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        print_error(f"no proxy answers at http://{listen}/status: {error}")
        sys.exit(COULD_NOT_RUN)
    finally:
        connection.close()
    return document


def _print_status(document: dict[str, Any]) -> None:
    ready = "serving" if document["ready"] else "NOT READY"
    workers = len(document["workers"])
    configuration = document.get("configuration")  # which the release before does not report
    number = f", configuration {configuration['number']}" if configuration else ""
    print_line(f"{document['machine']}  {ready}  xksproxy {document['version']}, {workers} workers{number}")
    if configuration:
        _print_configuration(configuration, document["workers"])
    print_line()
    if document["conditions"]:
        print_table(
            ("SEVERITY", "CAUSE", "KEY STORE", "HSM", "REASON"), list(map(_condition_row, document["conditions"]))
        )
        print_line()
    print_table(
        ("HSM", "STATE", "SERVED BY", "SESSIONS", "STUCK", "DEVICE"), [_hsm_row(hsm) for hsm in document["hsms"]]
    )
    print_line()
    if document.get("keystores_left_out"):  # which the release before does not report
        print_line(f"{document['keystore_count']} key stores; those that need attention, at most 100, are:")
    print_table(
        ("KEY STORE", "EXTERNAL KEY", "STATE", "VERSION", "ENCRYPTIONS"),
        [row for store in document["keystores"] for row in _key_rows(store)],
    )
    if document["refusals"]:
        print_line()
        columns = ("COUNT", "ERROR", "OPERATION", "KEY STORE", "REASON")
        names = ("count", "error", "operation", "keystore", "reason")
        print_table(columns, [tuple(str(row[name]) for name in names) for row in document["refusals"]])
    if reason := document.get("memory_not_locked"):
        print_line()
        print_line(f"the memory is not locked, so secrets may get into swap: {reason}")


def _print_configuration(configuration: dict[str, Any], workers: Sequence[dict[str, Any]]) -> None:
    """Say where the configuration in use is another one than the files have, or than was accepted last."""
    if configuration["differ_since"]:
        files = ", ".join(configuration["differing_files"])
        print_line(f"since {configuration['differ_since']} other content than was accepted, so not in use: {files}")
    for worker in workers:
        if worker["configuration"] != configuration["number"]:
            print_line(f"process {worker['pid']} uses configuration {worker['configuration']}")


def _condition_row(condition: dict[str, Any]) -> tuple[str, ...]:
    return tuple(condition[name] for name in ("severity", "cause", "keystore", "hsm", "text"))


def _hsm_row(hsm: dict[str, Any]) -> tuple[str, ...]:
    return (
        hsm["id"],
        f"{hsm['state']}: {hsm['reason']}" if hsm["reason"] else hsm["state"],
        f"{hsm['workers_served']} of {hsm['workers']} workers",
        str(hsm["sessions"]),
        str(hsm["stuck_sessions"]),
        hsm["model"],
    )


def _key_rows(store: dict[str, Any]) -> list[tuple[str, ...]]:
    head = (store["name"], "", "BLOCKED" if store["blocked"] else store["state"], "", "")
    return [head, *(_key_row(key) for key in store["keys"])]


def _key_row(key: dict[str, Any]) -> tuple[str, ...]:
    blocked = key.get("blocked")
    reason = f": {blocked['reason']}" if blocked and blocked["reason"] else ""
    encryptions = f"{key['encryptions']:,}" if "encryptions" in key else ""
    return ("", key["id"], f"{key['state']}{reason}", str(key.get("version", "")), encryptions)


def _needs_attention(document: dict[str, Any]) -> bool:
    return not document["ready"] or bool(document["conditions"])
