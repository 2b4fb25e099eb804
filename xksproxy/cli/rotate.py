"""``xksproxy keys rotate``, and taking old versions out of use."""

from pathlib import Path

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option, load_checked
from xksproxy.cli.output import print_json
from xksproxy.config.model import Config, KeyStore
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.direct import open_sessions
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.rotation.disable import disable_version, enable_version
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory, fingerprint_from_text, fingerprint_to_text
from xksproxy.rotation.rotate import Prepared, Proof, Reach, Rotation
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.state.state_file import file_lock
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import version_table

_LOCK_SECONDS = 0.5

_id_argument = click.argument("key_id", metavar="ID")
_version_argument = click.argument("number", metavar="VERSION", type=click.IntRange(min=1))


@click.command()
@config_option
@keystore_option
@_id_argument
@click.option("--wait", type=click.FloatRange(0), default=60, show_default=True, help="Seconds for HSMs to replicate.")
@click.option("--copy-with", metavar="LABEL", help="Copy the key in wrapped form, under this key of all the HSMs.")
@click.option("--version", "wanted", type=click.IntRange(min=1), help="Go to this existing version, such as back.")
@click.option("--proof", "proof_text", metavar="PROOF", help="What the first machine of several printed.")
@click.option("--activate", is_flag=True, help="Make the prepared version primary: every machine has prepared it.")
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
    activate: bool,
    as_json: bool,
) -> None:
    """Make the next version of an external key, and let it encrypt once every HSM was seen to hold it.

    A new key is made once, on the first HSM of the key store, and reaches the others by their own replication or, with
    --copy-with, in wrapped form. What older versions encrypted stays readable. Running workers follow within a
    second. The command can be repeated after any failure; it goes on where it stopped.

    With server.fleet_size above 1 the version is only prepared: repeat the command on every machine, with the --proof
    that the first one prints, and then on each with --activate.

    \b
    Example:
      xksproxy keys rotate demo-key
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    state = Path(config.state.directory)
    usage = UsageBook(state)
    try:
        with file_lock(state / f"rotate-{store.name}.json", _LOCK_SECONDS):
            rotation = _rotation(config, store, key, usage)
            if activate:
                _require_prepared(rotation, key_id, wanted)
            proof = None if proof_text is None else Proof(*fingerprint_from_text(proof_text))
            prepared = rotation.prepare(wanted, Reach(wait, copy_with), proof)
            if activate or config.server.fleet_size == 1:
                rotation.activate(prepared, usage)
    finally:
        usage.return_unused()
    primary = rotation.record().primary
    if as_json:
        print_json(_facts(prepared, primary))
    else:
        _tell(config, store, key_id, prepared, primary)


@click.command("disable-version")
@config_option
@keystore_option
@_id_argument
@_version_argument
@click.option("--recent", "days", type=click.FloatRange(0), default=30, show_default=True, help="Days that are recent.")
@click.option("--force", is_flag=True, help="Also if it has decrypted recently: data under it can then not be read.")
def disable(
    config_file: Path, keystore_name: str | None, key_id: str, number: int, days: float, *, force: bool
) -> None:
    """Let a key version that is not primary decrypt no more; it is refused if it has done so recently.

    Decrypt then answers InvalidStateException for what it encrypted. The key stays on the token. Only what this machine
    decrypted is known here, and only this machine is told.

    \b
    Example:
      xksproxy keys disable-version demo-key 1
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    state = Path(config.state.directory)
    disable_version(key, number, version_table(state, store.name), UsageBook(state), recent_days=days, force=force)
    click.echo(f"version {number} of {key_id} decrypts no more on this machine, within a second")


@click.command("enable-version")
@config_option
@keystore_option
@_id_argument
@_version_argument
def enable(config_file: Path, keystore_name: str | None, key_id: str, number: int) -> None:
    """Let a disabled key version decrypt again, on this machine.

    \b
    Example:
      xksproxy keys enable-version demo-key 1
    """
    config = load_checked(config_file)
    store = choose_keystore(config, keystore_name)
    key = _resolve(config, store, key_id)
    if not enable_version(key, number, version_table(Path(config.state.directory), store.name)):
        raise RotationRefused(f"version {number} of {key_id} is not disabled on this machine")
    click.echo(f"version {number} of {key_id} decrypts again on this machine, within a second")


def _resolve(config: Config, store: KeyStore, key_id: str) -> ExternalKey:
    try:
        return KeyMap(store.keys, config.server.fleet_size).resolve(key_id)
    except KeyNotFoundException:
        raise RotationRefused(f"the key store {store.name} exposes no external key {key_id}") from None


def _rotation(config: Config, store: KeyStore, key: ExternalKey, usage: UsageBook) -> Rotation:
    state = Path(config.state.directory)
    hsms = {hsm.id: hsm for hsm in config.hsm}
    sessions = open_sessions((hsms[hsm_id] for hsm_id in store.hsms), state, usage)
    return Rotation(
        key,
        KeyMap(store.keys, config.server.fleet_size),
        KeyInventory(sessions),
        version_table(state, store.name),
        FingerprintRecords(state / f"keys-{store.name}.json"),
    )


def _require_prepared(rotation: Rotation, key_id: str, wanted: int | None) -> None:
    record = rotation.record()
    if record.pending is None or record.pending not in record.proven or wanted not in (None, record.pending):
        what = "no version" if wanted is None else f"version {wanted}"
        raise RotationRefused(
            f"{what} of {key_id} is {'not ' if wanted else ''}prepared on this machine",
            f"first: xksproxy keys rotate {key_id}, with the --proof that another machine printed, if one did",
        )


def _facts(prepared: Prepared, primary: int) -> dict[str, object]:
    return {
        "version": prepared.number,
        "label": prepared.label,
        "made": prepared.made,
        "primary": primary,
        "proof": fingerprint_to_text(prepared.proof.number, prepared.proof.key),
    }


def _tell(config: Config, store: KeyStore, key_id: str, prepared: Prepared, primary: int) -> None:
    number = prepared.number
    verb = "made" if prepared.made else "found"
    click.echo(f"{verb} version {number} of {key_id}, the label {prepared.label}")
    click.echo(f"proven: each HSM holds the same key and decrypts with it: {', '.join(store.hsms)}")
    if primary == number:
        click.echo(f"version {number} encrypts from now on; running workers follow within a second")
        click.echo("older versions go on decrypting; see them with: xksproxy keys show " + key_id)
        return
    click.echo(f"prepared on this machine; version {primary} goes on encrypting")
    click.echo(f"next, on each of the other {config.server.fleet_size - 1}:")
    click.echo(
        f"  xksproxy keys rotate {key_id} --proof {fingerprint_to_text(prepared.proof.number, prepared.proof.key)}"
    )
    click.echo("and then, on every machine, when all of them have said this:")
    click.echo(f"  xksproxy keys rotate {key_id} --activate")
