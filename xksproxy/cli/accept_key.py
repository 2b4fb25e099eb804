"""``xksproxy keys accept``."""

import sys
from pathlib import Path

import click

from xksproxy.cli.config_check import load_checked
from xksproxy.cli.config_option import config_option, keystore_option
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.pasted import KEY_ID
from xksproxy.cli.record_event import record_event
from xksproxy.cli.token_session import hsm_option, open_on_hsm
from xksproxy.hsm.errors import HsmError, KeyDiffers
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
    """Accept that the key of an external key id was replaced on the token, and record the new one.

    The proxy refuses a key whose value is not the one on record. This records the value that the token has now, for the
    primary version. What the former key encrypted cannot be decrypted any more. Asks for the id as a confirmation.

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
        fingerprint = session.make_fingerprint(label)
    except (XksError, HsmError) as error:
        print_error(f"{key_id}: {error}", "nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    known = records.get(label)
    if known is None or _is_recorded(session, label, known):
        print_line(f"the key with the label {label} is the one on record, or none is on record; nothing was changed")
        return
    print_line(f"Ciphertexts of the former key with the label {label} cannot be decrypted with the new one.")
    if click.prompt("Type the id of the external key to accept the new one") != key_id:
        print_error("that is not the id; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    records.replace(label, known, fingerprint)
    values = {"before": _check_value(known), "after": _check_value(fingerprint)}
    record_event(state, "key accepted", keystore=store.name, key_id=key_id, label=label, **values)
    print_line(f"the new key with the label {label} is on record; running workers use it within 15 seconds")


def _check_value(fingerprint: KeyFingerprint) -> dict[str, str | None]:
    value = fingerprint.check_value
    return {"check_value": None if value is None else value.hex()}


def _is_recorded(session: HsmSession, label: str, known: KeyFingerprint) -> bool:
    try:
        session.verify_key(label, known)
    except KeyDiffers:
        return False
    return True
