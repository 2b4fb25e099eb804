"""``xksproxy keys rotate``, ``keys disable-version`` and ``keys enable-version``."""

from pathlib import Path
from typing import Any

import click
import msgspec

from xksproxy.cli.config_check import load_checked
from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option
from xksproxy.cli.doubt import require_no_doubt, require_no_doubt_by, require_no_known_doubt
from xksproxy.cli.finite_range import FiniteRange
from xksproxy.cli.output import print_json, print_line, print_progress
from xksproxy.cli.pasted import KEY_ID
from xksproxy.cli.record_event import record_event
from xksproxy.cli.report_followers import report_followers
from xksproxy.config.model import Config, KeyStore
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.command_sessions import open_sessions
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.rotation.disable import disable_version, enable_version
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory, fingerprint_from_text, fingerprint_to_text
from xksproxy.rotation.rotate import Distribution, PreparedVersion, Rotation, VersionFingerprint
from xksproxy.server.followers import holds, known_to_workers
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.private_files import make_directory
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import file_lock
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import KEY_MAKING, VersionRecord, version_table

_LOCK_SECONDS = 0.5

_id_argument = click.argument("key_id", metavar="ID", type=KEY_ID)
_version_argument = click.argument("number", metavar="VERSION", type=click.IntRange(min=1))


@click.command()
@config_option
@keystore_option
@_id_argument
@click.option("--wait", type=FiniteRange(0), default=60, show_default=True, help="Seconds for HSMs to replicate.")
@click.option("--copy-with", metavar="LABEL", help="Copy the key in wrapped form, with this wrapping key of all HSMs.")
@click.option(
    "--version", "wanted", type=click.IntRange(min=1), help="Use this existing version, for example to go back."
)
@click.option("--proof", "proof_text", metavar="PROOF", help="The value that the first machine printed.")
@click.option(
    "--prepare", is_flag=True, help="Do not make the version primary yet, so that the token is backed up first."
)
@click.option("--activate", is_flag=True, help="Make the prepared version primary, after every machine prepared it.")
@click.option(
    "--abandon", is_flag=True, help="End a rotation that was begun or prepared; the next one makes a new key."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate(
    *,
    config_file: Path,
    keystore_name: str | None,
    key_id: str,
    wait: float,
    copy_with: str | None,
    wanted: int | None,
    proof_text: str | None,
    prepare: bool,
    activate: bool,
    abandon: bool,
    as_json: bool,
) -> None:
    """Create the next version of an external key, verify it on every HSM, and make it primary.

    The new key is created once, on the first HSM of the key store. The HSMs replicate it; with --copy-with, the command
    copies it in wrapped form. Older versions still decrypt. Running workers use the new version within a second. After
    a failure, run the command again: it continues where it stopped.

    If server.fleet_size is above 1, the command only prepares the version. Run it on every machine, with the --proof
    that the first machine prints, and then on every machine with --activate.

    \b
    Example:
      xksproxy keys rotate demo-key
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    state = Path(config.state.directory)
    make_directory(state)
    require_no_known_doubt(config)
    usage = UsageBook(state)
    if prepare + activate + abandon > 1:
        raise click.UsageError("give only one of --prepare, --activate and --abandon")
    try:
        with file_lock(state / KEY_MAKING, _LOCK_SECONDS):
            rotation = _rotation(config, store, key, usage)
            before = rotation.record()
            if abandon:
                _abandon(config, store, rotation, key_id, as_json=as_json)
                return
            if activate:
                wanted = _require_prepared(rotation, key_id, wanted)
            proof = None if proof_text is None else VersionFingerprint(*fingerprint_from_text(proof_text))
            prepared = rotation.prepare(wanted, Distribution(wait, copy_with), proof)
            if activate or (config.server.fleet_size == 1 and not prepare):
                rotation.activate(prepared)
    finally:
        usage.return_unused()
    after = rotation.record()
    primary = after.primary
    message = "version activated" if primary == prepared.number else "version prepared"
    what = {"keystore": store.name, "key_id": key_id, "version": prepared.number, "created": prepared.created}
    _record(config, message, (before, after), **what)
    if as_json:
        print_json(_document(prepared, primary))
    else:
        _print_result(config, store, key_id, prepared, primary)
    if primary == prepared.number:
        _report_followers(state, store, quiet=as_json)


@click.command("disable-version")
@config_option
@keystore_option
@_id_argument
@_version_argument
@click.option("--recent", "days", type=FiniteRange(0), default=30, show_default=True, help="Days that are recent.")
@click.option("--force", is_flag=True, help="Disable it although it was used recently: its data cannot be decrypted.")
def disable(
    config_file: Path, keystore_name: str | None, key_id: str, number: int, days: float, *, force: bool
) -> None:
    """Disable a key version that is not primary. This is refused if the version was used recently.

    Decrypt then answers InvalidStateException for ciphertexts of this version. The key stays on the token. The command
    knows only the use on this machine, and disables the version only on this machine.

    \b
    Example:
      xksproxy keys disable-version demo-key 1
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    state = Path(config.state.directory)
    table = _versions(state, store)
    before = _read(table, key)
    disable_version(key, number, table, UsageBook(state), recent_days=days, force=force)
    what = {"keystore": store.name, "key_id": key_id, "version": number, "forced": force}
    _record(config, "version disabled", (before, _read(table, key)), **what)
    print_line(f"version {number} of {key_id} is disabled on this machine")
    _report_followers(state, store)


@click.command("enable-version")
@config_option
@keystore_option
@_id_argument
@_version_argument
def enable(config_file: Path, keystore_name: str | None, key_id: str, number: int) -> None:
    """Enable a disabled key version again, on this machine.

    \b
    Example:
      xksproxy keys enable-version demo-key 1
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    state = Path(config.state.directory)
    require_no_doubt(config)
    table = _versions(state, store)
    before = _read(table, key)
    if not enable_version(key, number, table):
        raise RotationRefused(f"version {number} of {key_id} is not disabled on this machine")
    what = {"keystore": store.name, "key_id": key_id, "version": number}
    _record(config, "version enabled", (before, _read(table, key)), **what)
    print_line(f"version {number} of {key_id} is enabled again on this machine")
    _report_followers(state, store)


def _abandon(config: Config, store: KeyStore, rotation: Rotation, key_id: str, *, as_json: bool) -> None:
    before = rotation.record()
    number, is_new = rotation.abandon()
    what = {"keystore": store.name, "key_id": key_id, "version": number}
    _record(config, "version abandoned", (before, rotation.record()), **what)
    if as_json:
        print_json({"version": number, "primary": before.primary})
        return
    print_line(f"version {number} of {key_id} is abandoned; version {before.primary} is still primary")
    if is_new and config.server.fleet_size > 1:
        print_line("keep its key unless no other machine has activated it: abandon it on every machine first")
    elif is_new:
        print_line("no data is encrypted under its key, so you can remove that with the vendor's tools")
    else:
        print_line("it may have been primary before: keep its key, which decrypts what it has encrypted")


def _read(table: SharedTable[VersionRecord], key: ExternalKey) -> VersionRecord:
    table.refresh()
    return table.get(key.id) or VersionRecord(key.first_version)


def _record(config: Config, message: str, change: tuple[VersionRecord, VersionRecord], **more: Any) -> None:
    """``change`` is the version record before and after."""
    before, after = map(msgspec.to_builtins, change)
    record_event(Path(config.state.directory), message, **more, before=before, after=after)


def _report_followers(state: Path, store: KeyStore, *, quiet: bool = False) -> None:
    table = _versions(state, store)
    table.refresh()
    report_followers(state, holds(table), quiet=quiet)


def _resolve(config: Config, store: KeyStore, key_id: str) -> ExternalKey:
    try:
        return KeyMap(store.keys, config.server.fleet_size).resolve(key_id)
    except KeyNotFoundException:
        raise RotationRefused(f"the key store {store.name} exposes no external key {key_id}") from None


def _versions(state: Path, store: KeyStore) -> SharedTable[VersionRecord]:
    table = version_table(state, store.name)
    table.expect_revision(known_to_workers(state, table.path.name))
    return table


def _rotation(config: Config, store: KeyStore, key: ExternalKey, usage: UsageBook) -> Rotation:
    state = Path(config.state.directory)
    hsms = {hsm.id: hsm for hsm in config.hsm}
    sessions = open_sessions((hsms[hsm_id] for hsm_id in store.hsms), state, usage, config.hsm, print_progress)
    require_no_doubt_by(config, sessions)

    def created(hsm: str, label: str) -> None:
        record_event(state, "key created", keystore=store.name, key_id=key.id, label=label, hsm=hsm, usage="both")

    return Rotation(
        key,
        KeyMap(store.keys, config.server.fleet_size),
        KeyInventory(sessions, print_progress, created),
        _versions(state, store),
        FingerprintRecords(state, store.name),
        usage=usage,
    )


def _require_prepared(rotation: Rotation, key_id: str, wanted: int | None) -> int:
    """Return the prepared version."""
    record = rotation.record()
    if record.pending is None or record.pending not in record.proven or wanted not in (None, record.pending):
        what = "no version" if wanted is None else f"version {wanted}"
        raise RotationRefused(
            f"{what} of {key_id} is {'not ' if wanted else ''}prepared on this machine",
            f"run this first: xksproxy keys rotate {key_id}",
            "if another machine prepared the version and printed a --proof, add it",
        )
    return record.pending


def _document(prepared: PreparedVersion, primary: int) -> dict[str, object]:
    return {
        "version": prepared.number,
        "label": prepared.label,
        "made": prepared.created,
        "primary": primary,
        "proof": _proof(prepared),
    }


def _proof(prepared: PreparedVersion) -> str:
    return fingerprint_to_text(prepared.fingerprint.number, prepared.fingerprint.key)


def _print_result(config: Config, store: KeyStore, key_id: str, prepared: PreparedVersion, primary: int) -> None:
    number = prepared.number
    verb = "created" if prepared.created else "found"
    print_line(f"{verb} version {number} of {key_id}, the label {prepared.label}")
    print_line(f"verified: each HSM has the same key and decrypts with it: {', '.join(store.hsms)}")
    if primary == number:
        print_line(f"version {number} is primary")
        print_line("older versions still decrypt; list them with: xksproxy keys show " + key_id)
        return
    print_line(f"prepared on this machine; version {primary} is still primary")
    if config.server.fleet_size == 1:
        print_line("then, when the token is backed up:")
        print_line(f"  xksproxy keys rotate {key_id} --activate")
        return
    print_line(f"next, on each of the other {config.server.fleet_size - 1}:")
    print_line(f"  xksproxy keys rotate {key_id} --proof {_proof(prepared)}")
    print_line("then, when every machine has prepared the version, on every machine:")
    print_line(f"  xksproxy keys rotate {key_id} --activate")
