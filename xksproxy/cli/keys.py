"""``xksproxy keys``: what is on the token, which of it KMS sees, and how it is used."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option, load_checked
from xksproxy.cli.key_versions import VERSION_COLUMNS, version_rows
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_json, print_table
from xksproxy.config.check import read_pin
from xksproxy.config.model import Config, KeyStore
from xksproxy.hsm.errors import HsmError, KeyAmbiguous, KeyDiffers, KeyMissing
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.direct import open_session
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyDescription, KeyFingerprint
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.spec.errors import KeyNotFoundException, XksError
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import version_table

_hsm_option = click.option(
    "--hsm", "hsm_id", help="The HSM to look at, where the key store has several; else the first."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True)
class _Row:
    """One key for the eye: as KMS names it, as the token has it, and its state."""

    id: str | None
    label: str
    version: int | None
    spec: str
    usages: tuple[str, ...]
    state: str
    sensitive: bool | None
    extractable: bool | None

    @property
    def wrong(self) -> bool:
        """Whether KMS is told of a key that it cannot use."""
        return self.state not in ("ENABLED", "DISABLED", "not exposed")


@click.group()
def keys() -> None:
    """List, make, show and rotate the keys of a key store.

    \b
    Example:
      xksproxy keys list --config xksproxy.toml
    """


@keys.command("list")
@config_option
@keystore_option
@_hsm_option
@_json_option
def list_keys(config_file: Path, keystore_name: str | None, hsm_id: str | None, *, as_json: bool) -> None:
    """List the keys on the token, and the configured ones that it lacks. Exit code 1 if a configured key is unusable.

    \b
    Example:
      xksproxy keys list --config xksproxy.toml
    """
    store, session = _open(load_checked(config_file), keystore_name, hsm_id)
    rows = _rows(KeyMap(store.keys), session.list_keys())
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        print_table(("EXTERNAL KEY ID", "LABEL", "VERSION", "SPEC", "USAGE", "STATE"), [_cells(row) for row in rows])
    if any(row.wrong for row in rows):
        sys.exit(FOUND_SOMETHING_WRONG)


@keys.command()
@config_option
@keystore_option
@_hsm_option
@click.argument("key_id", metavar="ID")
@_json_option
def show(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str, *, as_json: bool) -> None:
    """Show one external key as GetKeyMetadata sees it, with its versions. Exit code 1 if it cannot be used.

    Encryptions are counted on this machine, before they are made: a running proxy may have some in hand.

    \b
    Example:
      xksproxy keys show demo-key
    """
    config = load_checked(config_file)
    store, session = _open(config, keystore_name, hsm_id)
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
    for name, value in zip(("id", "label", "version", "spec", "usage", "state"), _cells(row), strict=True):
        click.echo(f"{name:12} {value}")
    click.echo(f"{'sensitive':12} {'yes' if row.sensitive else 'no'}")
    click.echo(f"{'extractable':12} {'yes' if row.extractable else 'no'}")
    click.echo()
    print_table(VERSION_COLUMNS, [version.cells() for version in versions])


@keys.command()
@config_option
@keystore_option
@_hsm_option
@click.argument("key_id", metavar="ID")
@click.option(
    "--usage",
    type=click.Choice(["both", "encrypt", "decrypt", "none"]),
    default="both",
    show_default=True,
    help="What the key's attributes allow; KMS needs both.",
)
def create(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str, usage: str) -> None:
    """Make an AES-256 key for an external key id: sensitive, not extractable, on the token for good.

    The key store must expose the id; the key gets the label configured for it. If the label is in use, nothing is made.

    \b
    Example:
      xksproxy keys create payments-2026
    """
    store, session = _open(load_checked(config_file), keystore_name, hsm_id)
    try:
        label = KeyMap(store.keys).resolve(key_id).label
    except KeyNotFoundException:
        print_error(
            f"the key store {store.name} does not expose {key_id}, so KMS could not use the key",
            f'add it to the configuration first: [[keystore.keys]] with id = "{key_id}"',
        )
        sys.exit(FOUND_SOMETHING_WRONG)
    try:
        session.create_key(label, bits=256, encrypt=usage in ("both", "encrypt"), decrypt=usage in ("both", "decrypt"))
    except KeyAmbiguous as error:
        print_error(str(error), "nothing was made")
        sys.exit(FOUND_SOMETHING_WRONG)
    click.echo(f"made an AES-256 key of the label {label}")


@keys.command()
@config_option
@keystore_option
@_hsm_option
@click.argument("key_id", metavar="ID")
def accept(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str) -> None:
    """Accept that the key of an external key id was replaced on the token, and record the new one.

    The proxy refuses a key whose value is not the one on record. This records the value that the token has now, for the
    primary version. What the former key encrypted cannot be decrypted any more. Asks for the id as a confirmation.

    \b
    Example:
      xksproxy keys accept payments-2026
    """
    config = load_checked(config_file)
    store, session = _open(config, keystore_name, hsm_id)
    state = Path(config.state.directory)
    records = FingerprintRecords(state / f"keys-{store.name}.json")
    records.refresh()
    try:
        key = KeyMap(store.keys, config.server.fleet_size).resolve(key_id)
        label = KeyVersions(version_table(state, store.name)).primary(key).label
        fingerprint = session.make_fingerprint(label)
    except (XksError, HsmError) as error:
        print_error(f"{key_id}: {error}", "nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    known = records.get(label)
    if known is None or _is_recorded(session, label, known):
        click.echo(f"the key with the label {label} is the one on record, or none is on record; nothing was changed")
        return
    click.echo(f"Ciphertexts of the former key with the label {label} cannot be decrypted with the new one.")
    if click.prompt("Type the id of the external key to accept the new one") != key_id:
        print_error("that is not the id; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    records.replace(label, known, fingerprint)
    click.echo(f"the new key with the label {label} is on record; running workers use it within 15 seconds")


def _is_recorded(session: HsmSession, label: str, known: KeyFingerprint) -> bool:
    try:
        session.verify_key(label, known)
    except KeyDiffers:
        return False
    return True


def _open(config: Config, keystore_name: str | None, hsm_id: str | None) -> tuple[KeyStore, HsmSession]:
    store = choose_keystore(config, keystore_name)
    if hsm_id not in (None, *store.hsms):
        raise click.UsageError(f"the key store {store.name} has no HSM {hsm_id}; it has: {', '.join(store.hsms)}")
    hsm = next(hsm for hsm in config.hsm if hsm.id == (hsm_id or store.hsms[0]))
    return store, open_session(hsm, read_pin(hsm), Path(config.state.directory))


def _rows(key_map: KeyMap, on_token: list[KeyDescription]) -> list[_Row]:
    labels = [description.label for description in on_token]
    rows = [row for description in on_token for row in _rows_of(key_map, description, labels.count(description.label))]
    missing = [key for key in key_map.named_keys() if not any(key.version_of(label) for label in labels)]
    rows += [_Row(key.id, key.label, None, "", (), "missing on the token", None, None) for key in missing]
    return sorted(rows, key=lambda row: (row.id is None, row.id or row.label, row.version or 0))


def _rows_of(key_map: KeyMap, description: KeyDescription, same_label: int) -> list[_Row]:
    """A row for each external key id that means a key on the token, or one that says there is none."""
    exposed = [key for key in key_map.named_keys() if key.version_of(description.label) is not None]
    if not exposed and (holder := key_map.holder(description.label)):
        exposed = [holder]
    if not exposed:
        return [_row(None, description)]
    state = f"ambiguous: {same_label} keys of this label" if same_label > 1 else None
    return [_row(key, description, state) for key in exposed]


def _row(key: ExternalKey | None, description: KeyDescription, state: str | None = None) -> _Row:
    if key is None:
        state = "not exposed"
    elif state is None and not description.is_aes_256:
        state = f"unusable: {description.spec}, not AES_256"
    elif state is None:
        state = "DISABLED" if key.disabled else "ENABLED"
    return _Row(
        key.id if key else None,
        description.label,
        key.version_of(description.label) if key else None,
        description.spec,
        description.usages,
        state,
        description.sensitive,
        description.extractable,
    )


def _cells(row: _Row) -> tuple[str, ...]:
    version = "-" if row.version is None else str(row.version)
    return (row.id or "-", row.label, version, row.spec or "-", ", ".join(row.usages) or "none", row.state)
