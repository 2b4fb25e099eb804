"""``xksproxy keys accept``."""

import sys
from pathlib import Path

import click
from msgspec.structs import replace

from xksproxy.cli.config_check import load_checked
from xksproxy.cli.config_option import config_option, keystore_option
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.pasted import KEY_ID
from xksproxy.cli.record_event import record_event
from xksproxy.cli.token_session import hsm_option, open_on_hsm
from xksproxy.hsm.errors import HsmError, KeyDiffers, KeyMissing
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.keystore.key_map import KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.spec.errors import XksError
from xksproxy.state.versions import version_table


@click.command()
@config_option
@keystore_option
@hsm_option
@click.argument("key_id", metavar="ID", type=KEY_ID)
def accept(config_file: Path, keystore_name: str | None, hsm_id: str | None, key_id: str) -> None:
    """Accept that the key of an external key id was replaced on the token, or removed from it, and record that.

    The proxy refuses a key whose value is not the one on record, and reports one that was used and is gone. This
    records the value that the token has now, for the primary version, or that nobody misses the key any more. What the
    former key encrypted cannot be decrypted any more. Asks for the id as a confirmation.

    \b
    Example:
      xksproxy keys accept payments-2026
    """
    config = load_checked(config_file)
    store, session = open_on_hsm(config, keystore_name, hsm_id)
    state = Path(config.state.directory)
    records = FingerprintRecords(state, store.name)
    records.refresh()
    try:
        key = KeyMap(store.keys, config.server.fleet_size).resolve(key_id)
        label = KeyVersions(version_table(state, store.name)).primary(key).label
        known = records.get(label)
        fingerprint = _fingerprint(session, label, known)
    except (XksError, HsmError) as error:
        print_error(f"{key_id}: {error}", "nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    if known is None or fingerprint == known:
        print_line(f"the key with the label {label} is the one on record, or none is on record; nothing was changed")
        return
    if fingerprint == replace(known, removed=False):
        records.replace(label, known, fingerprint)
        print_line(f"the key with the label {label} is back; its next removal is reported again")
        return
    if fingerprint.removed:
        print_line(f"The token has no key with the label {label}. Its ciphertexts cannot be decrypted without it.")
    else:
        print_line(f"Ciphertexts of the former key with the label {label} cannot be decrypted with the new one.")
    what = "that it was removed" if fingerprint.removed else "the new one"
    if click.prompt(f"Type the id of the external key to accept {what}") != key_id:
        print_error("that is not the id; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    records.replace(label, known, fingerprint)
    values = {"before": _check_value(known), "after": _check_value(fingerprint)}
    about = {"keystore": store.name, "key_id": key_id, "label": label}
    if fingerprint.removed:
        record_event(state, "key removal accepted", **about)
        print_line(f"it is on record that the key with the label {label} was removed; if it comes back, it is used")
        return
    record_event(state, "key accepted", **about, **values)
    print_line(f"the new key with the label {label} is on record; running workers use it within 15 seconds")


def _check_value(fingerprint: KeyFingerprint) -> dict[str, str | None]:
    value = fingerprint.check_value
    return {"check_value": None if value is None else value.hex()}


def _fingerprint(session: HsmSession, label: str, known: KeyFingerprint | None) -> KeyFingerprint:
    """What should be on record: ``known`` if the token has that key, or marked as removed if it has none."""
    try:
        if known is None:
            return session.make_fingerprint(label)
        session.verify_key(label, known)
    except KeyMissing:
        if known is None:
            raise
        return replace(known, removed=True)
    except KeyDiffers:
        return session.make_fingerprint(label)
    return replace(known, removed=False)
