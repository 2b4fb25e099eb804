"""The C calls against a real token, with `cryptography` as an independent oracle of AES-GCM."""

import os
import threading
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from pkcs11 import Attribute, KeyType, ObjectClass

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.attributes import key_template
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki, CryptokiError

KEY = bytes(range(32))
CKA_LABEL, CKA_VALUE, CKA_KEY_TYPE, VENDOR_DEFINED = 0x003, 0x011, 0x100, 0x80000001


@pytest.fixture
def cryptoki(connection: Connection) -> Cryptoki:
    return connection.cryptoki


@pytest.fixture
def known_key(session: HsmSession) -> Iterator[int]:
    """A session key whose value the test knows."""
    attributes = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: KEY,
        Attribute.TOKEN: False,
        Attribute.ENCRYPT: True,
        Attribute.DECRYPT: True,
    }
    key = session._session.create_object(attributes)
    yield key.handle
    key.destroy()


@given(iv=st.sampled_from([12, 16]).flatmap(lambda n: st.binary(min_size=n, max_size=n)), data=st.data())
@settings(max_examples=60)
def test_the_token_computes_the_same_gcm_as_another_implementation(
    cryptoki: Cryptoki, session: HsmSession, known_key: int, iv: bytes, data: st.DataObject
) -> None:
    plaintext, aad = data.draw(st.binary(max_size=5000)), data.draw(st.binary(max_size=9000))

    sealed, _ = cryptoki.gcm_encrypt(session._handle, known_key, iv=iv, aad=aad, plaintext=plaintext)

    assert sealed == AESGCM(KEY).encrypt(iv, plaintext, aad)
    assert cryptoki.gcm_decrypt(session._handle, known_key, iv=iv, aad=aad, sealed=sealed) == plaintext


def test_a_failure_names_the_function_and_the_return_value(cryptoki: Cryptoki, session: HsmSession) -> None:
    with pytest.raises(CryptokiError, match=r"^C_EncryptInit: CKR_(OBJECT|KEY)_HANDLE_INVALID$"):
        cryptoki.gcm_encrypt(session._handle, 999_999, iv=os.urandom(12), aad=b"", plaintext=b"")


def test_a_session_that_does_not_exist_is_a_failure(cryptoki: Cryptoki) -> None:
    with pytest.raises(CryptokiError, match="CKR_SESSION_HANDLE_INVALID"):
        cryptoki.random_bytes(999_999, 12)


def test_a_search_returns_more_objects_than_one_batch_holds(cryptoki: Cryptoki, session: HsmSession) -> None:
    label = os.urandom(8).hex()
    template = {Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label, Attribute.TOKEN: False}
    for _ in range(130):
        session._session.create_object(template)

    assert len(set(cryptoki.find_objects(session._handle, {CKA_LABEL: label.encode()}))) == 130


def test_a_search_is_finished_so_that_the_next_one_can_begin(cryptoki: Cryptoki, session: HsmSession) -> None:
    template = key_template(4, ObjectName("demo-key"))

    assert cryptoki.find_objects(session._handle, template) == cryptoki.find_objects(session._handle, template)


def test_attributes_that_are_sensitive_or_unknown_are_left_out(cryptoki: Cryptoki, session: HsmSession) -> None:
    (handle,) = cryptoki.find_objects(session._handle, key_template(4, ObjectName("demo-key")))

    attributes = cryptoki.read_attributes(session._handle, handle, (CKA_VALUE, CKA_LABEL, VENDOR_DEFINED, CKA_KEY_TYPE))

    assert attributes.keys() == {CKA_LABEL, CKA_KEY_TYPE}
    assert attributes[CKA_LABEL] == b"demo-key"


def test_threads_with_a_session_each_do_not_disturb_one_another(connection: Connection, hsm: object) -> None:
    """Without CKF_OS_LOCKING_OK this crashes the process within a second."""
    failures: list[Exception] = []

    def work() -> None:
        try:
            session = HsmSession(connection)
            for number in range(300):
                text = number.to_bytes(4, "big")
                assert session.decrypt("demo-key", session.encrypt("demo-key", text, b"aad"), b"aad") == text
            session.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test must see it
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_module_initialised_in_another_process_is_refused(
    connection: Connection, cryptoki: Cryptoki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cryptoki, "_initialized_by", os.getppid())

    with pytest.raises(RuntimeError, match="another process"):
        connection.open_session()
