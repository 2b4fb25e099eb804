"""Finding keys, using them, and what a session says when it cannot."""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, ObjectClass
from support import make_environment

from xksproxy.config.model import Hsm
from xksproxy.config.object_names import ObjectName
from xksproxy.config.pins import read_pin
from xksproxy.hsm.errors import (
    CiphertextRejected,
    CiphertextWrong,
    HsmBusy,
    KeyAmbiguous,
    KeyMissing,
    KeyRefusesUse,
    SessionLost,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance.key_table import KnownKey
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key

Label = Callable[[str], str]


@pytest.fixture
def other(connection: Connection) -> HsmSession:
    """A second session, which stands for whoever else manages keys on the token."""
    return HsmSession(connection)


def make_key(session: HsmSession, label: str, bits: int = 256, *, encrypt: bool = True, decrypt: bool = True) -> None:
    generate_aes_key(session._session, bits, name=ObjectName(label), encrypt=encrypt, decrypt=decrypt)


def objects_of(session: HsmSession, label: str) -> list[Any]:
    return list(session._session.get_objects({Attribute.LABEL: label}))


def test_each_encryption_has_an_iv_of_its_own(session: HsmSession) -> None:
    sealed = [session.encrypt("demo-key", b"text", b"") for _ in range(150)]

    assert len({item.iv for item in sealed}) == 150
    assert {len(item.iv) for item in sealed} == {12}


def test_an_all_zero_iv_is_never_used(session: HsmSession) -> None:
    session.native_session.replace_ivs(bytes(24))

    with pytest.raises(SettingsMismatch, match="all-zero"):
        session.encrypt("demo-key", b"text", b"")


@pytest.mark.parametrize("part", ["iv", "ciphertext", "tag", "aad"])
def test_any_changed_part_is_a_rejected_ciphertext(session: HsmSession, part: str) -> None:
    sealed = session.encrypt("demo-key", b"some text", b"aad")
    parts = {"iv": sealed.iv, "ciphertext": sealed.ciphertext, "tag": sealed.tag, "aad": b"aad"}
    parts[part] = bytes([parts[part][0] ^ 1]) + parts[part][1:]

    with pytest.raises(CiphertextRejected):
        session.decrypt("demo-key", Sealed(parts["iv"], parts["ciphertext"], parts["tag"]), parts["aad"])


def test_a_session_works_on_after_a_rejected_ciphertext(session: HsmSession) -> None:
    sealed = session.encrypt("demo-key", b"text", b"")
    with pytest.raises(CiphertextRejected):
        session.decrypt("demo-key", sealed, b"other aad")

    assert session.decrypt("demo-key", sealed, b"") == b"text"


def test_a_key_is_not_missing_if_another_thread_logs_in_again_after_the_search(
    session: HsmSession, connection: Connection, hsm: Hsm, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = read_pin(hsm)
    assert pin
    find = session._cryptoki.find_objects

    def log_in_again() -> None:
        if not session.logged_in():
            connection.log_in(connection.checked_pin(pin))

    def found(number: int, template: Mapping[int, bytes]) -> list[int]:
        handles = find(number, template)
        log_in_again()
        return handles

    monkeypatch.setattr(session._cryptoki, "find_objects", found)
    connection.cryptoki.log_out(connection.anchor.handle)
    try:
        with pytest.raises(SessionLost):
            session.encrypt("demo-key", b"text", b"")
    finally:
        log_in_again()


def test_an_ambiguous_failure_with_a_failing_self_test_is_the_tokens_fault(
    session: HsmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = session.encrypt("demo-key", b"text", b"")

    def broken(*_: object, **__: object) -> bytes:
        raise CryptokiError("C_Decrypt", 0x005)

    monkeypatch.setattr(session._cryptoki, "gcm_decrypt", broken)

    with pytest.raises(TokenUnavailable, match="self-test"):
        session.decrypt("demo-key", sealed, b"")


@pytest.mark.parametrize(
    ("return_value", "error_class"),
    [
        (0x0B3, SessionLost),
        (0x090, SessionLost),
        (0x031, HsmBusy),
        (0x030, TokenUnavailable),
        (0x80000001, TokenUnavailable),
    ],
)
def test_return_values_have_their_consequences(
    session: HsmSession, monkeypatch: pytest.MonkeyPatch, return_value: int, error_class: type[Exception]
) -> None:
    def failing(*_: object, **__: object) -> bytes:
        raise CryptokiError("C_EncryptInit", return_value)

    monkeypatch.setattr(session._cryptoki, "gcm_encrypt", failing)

    with pytest.raises(error_class):
        session.encrypt("demo-key", b"text", b"")


def test_the_codes_of_a_wrong_tag_mean_something_else_outside_of_decrypt(
    session: HsmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> bytes:
        raise CryptokiError("C_DecryptInit", 0x005)

    monkeypatch.setattr(session._cryptoki, "gcm_decrypt", failing)

    with pytest.raises(TokenUnavailable):
        session.decrypt("demo-key", Sealed(bytes(12), b"", bytes(16)), b"")


def test_output_of_a_wrong_length_is_refused(session: HsmSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session._cryptoki, "gcm_encrypt", lambda *_, iv, **__: (bytes(20), iv))

    with pytest.raises(SettingsMismatch, match="20 bytes"):
        session.encrypt("demo-key", b"text!", b"")


@pytest.mark.parametrize("plaintext", [b"text", b"text!!", b""], ids=["a byte less", "a byte more", "empty"])
def test_a_plaintext_of_another_length_than_its_ciphertext_is_refused(
    session: HsmSession, monkeypatch: pytest.MonkeyPatch, plaintext: bytes
) -> None:
    sealed = session.encrypt("demo-key", b"text!", b"")
    monkeypatch.setattr(session._cryptoki, "gcm_decrypt", lambda *_, **__: plaintext)

    with pytest.raises(TokenUnavailable, match="another length than the ciphertext"):
        session.decrypt("demo-key", sealed, b"")


def searches(session: HsmSession, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What a session searches for from now on."""
    made: list[object] = []
    find = session._cryptoki.find_objects

    def noted(handle: int, template: Any) -> list[int]:
        made.append(template)
        return find(handle, template)

    monkeypatch.setattr(session._cryptoki, "find_objects", noted)
    return made


def test_a_key_is_searched_once_and_its_handle_kept(session: HsmSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session._connection, "key_hints", {})
    made = searches(session, monkeypatch)

    for _ in range(5):
        session.encrypt("demo-key", b"text", b"")

    assert len(made) == 2  # one for secret keys, one for private ones


def test_a_key_that_one_session_listed_is_not_searched_for_by_another(
    session: HsmSession, other: HsmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = session.encrypt("demo-key", b"text", b"")
    other.list_keys()
    made = searches(other, monkeypatch)

    assert other.decrypt("demo-key", sealed, b"") == b"text"
    assert made == []


@pytest.mark.parametrize("hint", ["another key", "no object"])
def test_a_hint_that_is_wrong_is_not_believed(
    session: HsmSession, other: HsmSession, unique_label: Label, monkeypatch: pytest.MonkeyPatch, hint: str
) -> None:
    label = unique_label("hinted")
    make_key(session, label)
    sealed = session.encrypt(label, b"text", b"")
    handle = session._keys.find("demo-key").handle if hint == "another key" else 999_999
    monkeypatch.setattr(other._connection, "key_hints", {label: handle})

    assert other.decrypt(label, sealed, b"") == b"text"


def test_no_hint_is_given_for_a_label_of_two_keys(session: HsmSession, other: HsmSession, unique_label: Label) -> None:
    label = unique_label("twins")
    for _ in range(2):
        make_key(session, label)
    session.list_keys()

    with pytest.raises(KeyAmbiguous):
        other.encrypt(label, b"text", b"")


def test_a_key_is_described_from_a_search_whatever_was_hinted(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    """Commands for operators notice a second key of the label at once."""
    label = unique_label("twin")
    make_key(session, label)
    session.list_keys()
    make_key(session, label)

    with pytest.raises(KeyAmbiguous):
        other.describe_key(label)


def test_a_fingerprint_whose_ciphertext_is_corrupted_is_the_hsms_fault(
    session: HsmSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no answer about the ciphertext of a request, which waits for the fingerprint."""

    def corrupt(label: str, plaintext: bytes, aad: bytes) -> Sealed:
        sealed = session.encrypt(label, plaintext, aad)
        return Sealed(sealed.iv, sealed.ciphertext, bytes(16))

    monkeypatch.setattr(session._fingerprint_maker, "_encrypt", corrupt)
    with pytest.raises(CiphertextWrong):
        session.make_fingerprint("demo-key")


def test_a_listed_key_is_read_without_a_search(
    session: HsmSession, other: HsmSession, unique_label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GetKeyMetadata costs the same on a large token."""
    label = unique_label("read")
    make_key(session, label)
    session.list_keys()
    made = searches(other, monkeypatch)

    assert other.read_key(label).usages == ("ENCRYPT", "DECRYPT")
    assert made == []


def test_a_key_whose_attributes_change_is_read_as_it_is_now(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    label = unique_label("changes")
    make_key(other, label)
    assert session.read_key(label).can_encrypt

    objects_of(other, label)[0][Attribute.ENCRYPT] = False

    assert not session.read_key(label).can_encrypt


def test_a_key_that_was_destroyed_or_made_anew_is_read_as_it_is_now(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    label = unique_label("anew")
    make_key(other, label)
    session.list_keys()
    assert session.read_key(label).spec == "AES_256"
    objects_of(other, label)[0].destroy()
    make_key(other, label, 128)
    assert session.read_key(label).spec == "AES_128"

    objects_of(other, label)[0].destroy()

    with pytest.raises(KeyMissing):
        session.read_key(label)


def test_a_key_that_is_not_there_is_missing(session: HsmSession, unique_label: Label) -> None:
    with pytest.raises(KeyMissing):
        session.encrypt(unique_label("none"), b"text", b"")


def test_a_key_made_later_is_found(session: HsmSession, other: HsmSession, unique_label: Label) -> None:
    label = unique_label("later")
    with pytest.raises(KeyMissing):
        session.encrypt(label, b"text", b"")

    make_key(other, label)

    assert session.encrypt(label, b"text", b"").ciphertext


def test_a_destroyed_key_is_missing_at_once(session: HsmSession, other: HsmSession, unique_label: Label) -> None:
    label = unique_label("destroyed")
    make_key(other, label)
    session.encrypt(label, b"text", b"")

    objects_of(other, label)[0].destroy()

    with pytest.raises(KeyMissing):
        session.encrypt(label, b"text", b"")


def test_a_key_made_anew_under_its_label_is_used_at_once(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    label = unique_label("anew")
    make_key(other, label)
    before = session.encrypt(label, b"text", b"")
    objects_of(other, label)[0].destroy()
    make_key(other, label)

    after = session.encrypt(label, b"text", b"")

    assert session.decrypt(label, after, b"") == b"text"
    with pytest.raises(CiphertextRejected):
        session.decrypt(label, before, b"")


def test_a_handle_that_has_come_to_mean_another_key_is_not_used(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    label = unique_label("right")
    make_key(other, label)
    wrong = session._keys.find("demo-key")
    long_ago = time.monotonic() - 3600
    session._keys._known[label] = KnownKey(wrong.handle, session._keys.find(label).description, long_ago)

    sealed = session.encrypt(label, b"text", b"")

    assert other.decrypt(label, sealed, b"") == b"text"


def test_two_keys_of_one_label_are_refused(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("twin")
    make_key(session, label)
    make_key(session, label)

    with pytest.raises(KeyAmbiguous):
        session.encrypt(label, b"text", b"")
    with pytest.raises(KeyAmbiguous):
        session.describe_key(label)


def test_create_key_makes_no_second_key_of_a_label(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("once")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)

    with pytest.raises(KeyAmbiguous):
        session.create_key(label, bits=256, encrypt=True, decrypt=True)

    assert len(objects_of(session, label)) == 1


def test_a_made_key_is_sensitive_and_not_extractable(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("safe")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)

    description = session.describe_key(label)

    assert (description.spec, description.usages) == ("AES_256", ("ENCRYPT", "DECRYPT"))
    assert description.sensitive
    assert not description.extractable


@pytest.mark.parametrize(("encrypt", "decrypt"), [(True, False), (False, True), (False, False)])
def test_a_key_is_used_only_as_its_attributes_allow(
    session: HsmSession, unique_label: Label, encrypt: bool, decrypt: bool
) -> None:
    label = unique_label("usage")
    make_key(session, label, encrypt=encrypt, decrypt=decrypt)

    if not encrypt:
        with pytest.raises(KeyRefusesUse):
            session.encrypt(label, b"text", b"")
    if not decrypt:
        with pytest.raises(KeyRefusesUse):
            session.decrypt(label, Sealed(bytes(12), b"", bytes(16)), b"")


def test_a_usage_taken_away_or_given_back_on_the_token_counts_at_once(
    session: HsmSession, other: HsmSession, unique_label: Label
) -> None:
    label = unique_label("toggled")
    make_key(other, label)
    session.encrypt(label, b"text", b"")

    objects_of(other, label)[0][Attribute.ENCRYPT] = False
    with pytest.raises(KeyRefusesUse):
        session.encrypt(label, b"text", b"")

    objects_of(other, label)[0][Attribute.ENCRYPT] = True
    assert session.encrypt(label, b"text", b"").ciphertext


def test_a_128_bit_key_is_described_as_it_is_and_not_used(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("short")
    make_key(session, label, 128)

    assert session.describe_key(label).spec == "AES_128"
    with pytest.raises(KeyRefusesUse, match="AES_128"):
        session.encrypt(label, b"text", b"")


def test_a_generic_secret_is_described_as_it_is_and_not_used(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("generic")
    attributes = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.GENERIC_SECRET,
        Attribute.VALUE: bytes(range(32)),
        Attribute.LABEL: label,
        Attribute.TOKEN: True,
    }
    session._session.create_object(attributes)

    assert session.describe_key(label).spec == "GENERIC_SECRET_256"
    with pytest.raises(KeyRefusesUse):
        session.encrypt(label, b"text", b"")


def test_an_rsa_key_is_described_as_it_is_and_not_used(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("rsa")
    session._session.generate_keypair(KeyType.RSA, 2048, label=label, store=True)

    assert session.describe_key(label).spec == "RSA_2048"
    with pytest.raises(KeyRefusesUse):
        session.encrypt(label, b"text", b"")


def test_an_object_that_is_no_key_does_not_make_a_label_ambiguous(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("data")
    make_key(session, label)
    session._session.create_object({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label, Attribute.TOKEN: True})

    assert session.encrypt(label, b"text", b"").ciphertext


def test_list_keys_shows_every_key_of_the_token(session: HsmSession) -> None:
    labels = {key.label for key in session.list_keys()}

    assert {"demo-key", "encrypt-only-key", "decrypt-only-key", "impotent-key"} <= labels


def test_the_self_test_leaves_no_key_on_the_token(session: HsmSession, other: HsmSession) -> None:
    before = len(other.list_keys())

    session.self_test()

    assert len(other.list_keys()) == before


def test_a_session_key_is_never_taken_for_a_key_of_the_token(session: HsmSession, unique_label: Label) -> None:
    label = unique_label("fleeting")
    session._session.generate_key(KeyType.AES, 256, label=label, store=False)

    with pytest.raises(KeyMissing):
        session.encrypt(label, b"text", b"")


_SCRIPT = """
import sys
from pathlib import Path
from xksproxy.config.pins import read_pin
from xksproxy.config.load import load_config
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.state.usage import UsageBook
directory = Path(sys.argv[1])
hsm = load_config(directory / "xksproxy.toml").hsm[0]
state = directory / "state"
connection = Modules(PinGuard(state), UsageBook(state)).connect(hsm, read_pin(hsm))
session = HsmSession(connection)
{}
try:
    session.describe_key("demo-key")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("error", "statement"),
    [
        ("SessionLost", "connection.cryptoki.log_out(connection.anchor.handle)"),
        ("TokenUnavailable", "(directory / 'tokens').rename(directory / 'gone')"),
    ],
)
def test_a_token_that_was_logged_out_or_vanished_has_no_missing_keys(
    tmp_path: Path, error: str, statement: str
) -> None:
    make_environment(tmp_path / "dev")
    command = [sys.executable, "-c", _SCRIPT.format(statement), str(tmp_path / "dev")]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == error, done.stderr
