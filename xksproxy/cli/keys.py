"""``xksproxy keys``: list, show and create the keys of a key store."""

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from xksproxy.cli.accept_key import accept
from xksproxy.cli.config_check import load_checked
from xksproxy.cli.config_option import config_option, keystore_option
from xksproxy.cli.key_versions import VERSION_COLUMNS, version_rows
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.pasted import KEY_ID
from xksproxy.cli.record_event import record_event
from xksproxy.cli.rotate import disable, enable, rotate
from xksproxy.cli.table import print_table
from xksproxy.cli.token_session import hsm_option, open_on_hsm
from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.errors import KeyAmbiguous, KeyMissing
from xksproxy.hsm.keys import KeyDescription
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.state_file import file_lock
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import KEY_MAKING, version_table

_LOCK_SECONDS = 5.0
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True)
class _Row:
    """One key: its external key id, its attributes on the token, and its state."""

    id: str | None
    label: str
    object_id: str | None
    """CKA_ID in hexadecimal."""
    version: int | None
    spec: str
    usages: tuple[str, ...]
    state: str
    sensitive: bool | None
    extractable: bool | None

    @property
    def unusable(self) -> bool:
        """Whether the key store exposes the key, but KMS cannot use it."""
        return self.state not in ("ENABLED", "DISABLED", "not exposed")


@click.group()
def keys() -> None:
    """List, show, create and rotate the keys of a key store.

    \b
    Example:
      xksproxy keys list --config xksproxy.toml
    """


for command in (rotate, disable, enable, accept):
    keys.add_command(command)


@keys.command("list")
@config_option
@keystore_option
@hsm_option
@_json_option
def list_keys(config_file: Path, keystore_name: str | None, hsm_id: str | None, *, as_json: bool) -> None:
    """List the keys on the token, and configured keys that are missing. Exit code 1 if a configured key is unusable.

    \b
    Example:
      xksproxy keys list --config xksproxy.toml
    """
    store, session = open_on_hsm(load_checked(config_file), keystore_name, hsm_id)
    rows = _rows(KeyMap(store.keys), session.list_keys())
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        print_table(
            ("EXTERNAL KEY ID", "LABEL", "CKA_ID", "VERSION", "SPEC", "USAGE", "STATE"), [_cells(row) for row in rows]
        )
    if any(row.unusable for row in rows):
        sys.exit(FOUND_SOMETHING_WRONG)


@keys.command()
@config_option
@keystore_option
@hsm_option
@click.argument("key_id", metavar="ID", type=KEY_ID)
@_json_option
def show(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str, *, as_json: bool) -> None:
    """Show one external key as GetKeyMetadata reports it, with its versions. Exit code 1 if it cannot be used.

    The count of encryptions is of this machine. It includes encryptions that running workers have reserved.

    \b
    Example:
      xksproxy keys show demo-key
    """
    config = load_checked(config_file)
    store, session = open_on_hsm(config, keystore_name, hsm_id)
    try:
        key = KeyMap(store.keys, config.server.fleet_size).resolve(key_id)
    except KeyNotFoundException:
        print_error(f"the key store {store.name} exposes no external key {key_id}")
        sys.exit(FOUND_SOMETHING_WRONG)
    state = Path(config.state.directory)
    versions = version_rows(key, session.list_keys(), version_table(state, store.name), UsageBook(state))
    try:
        primary = next(version for version in versions if version.role == "primary")
        row = _row(key, session.describe_key(primary.label))
    except (KeyMissing, KeyAmbiguous) as error:
        print_error(f"{key_id}: {error}")
        sys.exit(FOUND_SOMETHING_WRONG)
    if as_json:
        print_json({**asdict(row), "versions": [asdict(version) for version in versions]})
        return
    for name, value in zip(("id", "label", "object_id", "version", "spec", "usage", "state"), _cells(row), strict=True):
        print_line(f"{name:12} {value}")
    print_line(f"{'sensitive':12} {'yes' if row.sensitive else 'no'}")
    print_line(f"{'extractable':12} {'yes' if row.extractable else 'no'}")
    print_line()
    print_table(VERSION_COLUMNS, [version.cells() for version in versions])


@keys.command()
@config_option
@keystore_option
@hsm_option
@click.argument("key_id", metavar="ID", type=KEY_ID)
@click.option(
    "--usage",
    type=click.Choice(["both", "encrypt", "decrypt", "none"]),
    default="both",
    show_default=True,
    help="What the key's attributes allow; KMS needs both.",
)
def create(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str, usage: str) -> None:
    """Create an AES-256 key for an external key id. The key is a token object, sensitive and not extractable.

    The key store must expose the id. The key gets the label and the CKA_ID that are configured for it; without a label,
    the id is its label. If the token has a key with this label or this CKA_ID, no key is created.

    \b
    Example:
      xksproxy keys create payments-2026
    """
    config = load_checked(config_file)
    store, session = open_on_hsm(config, keystore_name, hsm_id)
    try:
        key = KeyMap(store.keys).resolve(key_id)
    except KeyNotFoundException:
        print_error(
            f"the key store {store.name} does not expose {key_id}, so KMS could not use the key",
            f'add [[keystore.keys]] with id = "{key_id}" to the configuration first',
        )
        sys.exit(FOUND_SOMETHING_WRONG)
    try:
        with file_lock(Path(config.state.directory) / KEY_MAKING, _LOCK_SECONDS):
            session.create_key(
                key.name,
                bits=256,
                encrypt=usage in ("both", "encrypt"),
                decrypt=usage in ("both", "decrypt"),
                default_label=key.label,
            )
            UsageBook(Path(config.state.directory)).begin(key.name)
    except KeyAmbiguous as error:
        print_error(str(error), "no key was created")
        sys.exit(FOUND_SOMETHING_WRONG)
    record_event(
        Path(config.state.directory),
        "key created",
        keystore=store.name,
        key_id=key_id,
        label=key.name,
        hsm=hsm_id or store.hsms[0],
        usage=usage,
    )
    print_line(f"created an AES-256 key with the label {key.label}{_with_id(key.name)}")


def _rows(key_map: KeyMap, on_token: list[KeyDescription]) -> list[_Row]:
    names = Counter(name for description in on_token for name in description.names)
    rows = [row for description in on_token for row in _rows_of(key_map, description, names)]
    missing = [key for key in key_map.named_keys() if not any(key.version_of(name) for name in names)]
    rows += [
        _Row(key.id, key.label, _id_of(key.name), None, "", (), "missing on the token", None, None) for key in missing
    ]
    return sorted(rows, key=lambda row: (row.id is None, row.id or row.label, row.version or 0))


def _rows_of(key_map: KeyMap, description: KeyDescription, names: Counter[str]) -> list[_Row]:
    """A row for each external key id that exposes a key on the token, or one row if it is not exposed."""
    exposed = [(key, name) for key in key_map.named_keys() if (name := _name_in(key, description)) is not None]
    by_pattern = None if exposed else key_map.key_of_label(description.names[0])
    if by_pattern is not None and (name := _name_in(by_pattern, description)) is not None:
        exposed = [(by_pattern, name)]
    if not exposed:
        return [_row(None, description)]
    return [
        _row(key, description, f"ambiguous: {names[name]} keys fit {name}" if names[name] > 1 else None)
        for key, name in exposed
    ]


def _name_in(key: ExternalKey, description: KeyDescription) -> str | None:
    """The name by which an external key has a key on the token; None if it has not."""
    return next((name for name in description.names if key.version_of(name) is not None), None)


def _id_of(name: str) -> str | None:
    object_id = ObjectName.parse(name).object_id
    return None if object_id is None else object_id.hex()


def _with_id(name: str) -> str:
    object_id = _id_of(name)
    return "" if object_id is None else f" and the CKA_ID {object_id}"


def _row(key: ExternalKey | None, description: KeyDescription, state: str | None = None) -> _Row:
    if key is None:
        state = "not exposed"
    elif state is None and not description.is_aes_256:
        state = f"unusable: {description.spec}, not AES_256"
    elif state is None:
        state = "DISABLED" if key.disabled else "ENABLED"
    name = _name_in(key, description) if key else None
    return _Row(
        key.id if key else None,
        description.label,
        description.object_id.hex() if description.object_id else None,
        key.version_of(name) if key and name else None,
        description.spec,
        description.usages,
        state,
        description.sensitive,
        description.extractable,
    )


def _cells(row: _Row) -> tuple[str, ...]:
    version = "-" if row.version is None else str(row.version)
    return (
        row.id or "-",
        row.label,
        row.object_id or "-",
        version,
        row.spec or "-",
        ", ".join(row.usages) or "none",
        row.state,
    )
