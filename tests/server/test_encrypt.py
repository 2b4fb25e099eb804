"""Encrypt to the letter (R-ENC-*, R-CDIV-*, Q-3, Q-4, Q-5, Q-13)."""

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute, KeyType, Mechanism
from server_support import (
    Caller,
    SealedMessage,
    Wire,
    assert_json,
    assert_refused,
    decoded,
    encoded,
    find_key,
    hand_composed_aad,
    import_key,
    key_path,
    on_each_worker,
    request,
    signed,
)
from support import Proxy, eventually

from xksproxy.client.xks import XksClient
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.spec.uri import Operation

AAD = b"project=nile,department=marketing"
NOT_A_STRING = [None, 7, True, ["QQ=="], {"x": "QQ=="}]
NOT_BASE64 = [
    "A",
    "AA",
    "AAA",
    "A===",
    "QUJD=",
    "====",
    "QQ==QQ==",
    "=QUJ",
    "QUJD\n",
    " QUJD",
    "QU JD",
    "-_-_",
    "QUJ*",
    "QUJDü",
    "QUJ\u0000",
]


def test_the_answer_has_exactly_the_fields_of_the_specification(caller: Caller) -> None:
    answer = caller.encrypt("demo-key", b"Hello World!", AAD)

    assert answer.status == 200
    assert answer.body.keys() - {"ciphertextMetadata"} == {"authenticationTag", "ciphertext", "initializationVector"}
    sealed = SealedMessage.of(answer)
    assert len(sealed.ciphertext) == 12
    assert len(sealed.iv) in (12, 16)
    assert len(sealed.tag) == 16
    assert len(sealed.ctm or b"") <= 20


def test_the_answer_is_json_without_a_blank_after_a_colon(proxy: Proxy, wire: Wire, caller: Caller) -> None:
    path = key_path("encrypt")
    body = json.dumps(caller.encryption(b"Hello World!", AAD, cdiv=True), indent=2).encode()

    reply = wire.ask(request("POST", path, signed(proxy, path, body), body))

    assert reply.status == 200
    assert_json(reply)
    assert b'"ciphertext":"' in reply.content
    assert b" " not in reply.content


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 4300, 8192])
def test_a_plaintext_of_any_supported_size_comes_back(caller: Caller, size: int) -> None:
    plaintext = os.urandom(size)

    sealed = caller.seal("demo-key", plaintext, AAD)
    opened = caller.decrypt("demo-key", sealed)

    assert len(sealed.ciphertext) == size
    assert (opened.status, opened.body) == (200, {"plaintext": encoded(plaintext)})


@pytest.mark.parametrize("size", [0, 1, 255, 256, 4096, 8192])
def test_an_aad_of_any_supported_size_is_taken(caller: Caller, size: int) -> None:
    sealed = caller.seal("demo-key", b"Hello World!", os.urandom(size))

    assert caller.decrypt("demo-key", sealed).body == {"plaintext": encoded(b"Hello World!")}


def test_the_largest_request_of_all_is_taken(caller: Caller) -> None:
    arn = "arn:aws:kms:eu-west-1:".ljust(2048, "1")
    caller.metadata |= {"awsPrincipalArn": arn, "kmsKeyArn": arn, "kmsViaService": arn, "awsSourceVpce": arn}
    plaintext = os.urandom(8192)

    answer = caller.encrypt("demo-key", plaintext, os.urandom(8192), cdiv=True)

    assert answer.status == 200


@pytest.mark.parametrize(
    ("plaintext", "aad"), [(8193, None), (8193, 8192), (0, 8193), (8192, 8193), (20000, None), (0, 20000)]
)
def test_one_byte_more_than_supported_is_unsupported(caller: Caller, plaintext: int, aad: int | None) -> None:
    answer = caller.encrypt("demo-key", bytes(plaintext), None if aad is None else bytes(aad))

    assert_refused(answer, 501, "UnsupportedOperationException")


@pytest.mark.parametrize("written", [{}, {"additionalAuthenticatedData": ""}, {"additionalAuthenticatedData": None}])
@pytest.mark.parametrize("read", [{}, {"additionalAuthenticatedData": ""}, {"additionalAuthenticatedData": None}])
def test_an_empty_aad_equals_an_absent_one(caller: Caller, written: dict[str, Any], read: dict[str, Any]) -> None:
    answer = caller.client.call(Operation.ENCRYPT, caller.encryption(b"x") | written, "demo-key")
    message = caller.decryption(SealedMessage.of(answer)) | read

    assert caller.client.call(Operation.DECRYPT, message, "demo-key").body == {"plaintext": encoded(b"x")}


def test_no_iv_comes_twice(roaming: Caller) -> None:
    """More of them than a block of the token's generator holds, from every session."""
    ivs = [roaming.seal("demo-key", b"").iv for _ in range(1000)]

    assert len(set(ivs)) == len(ivs)


def test_the_token_is_given_the_composed_aad(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    """R-CDIV-2 and R-CDIV-3, opened by other software than the proxy's."""
    label = unique_label("known")
    value = os.urandom(32)
    import_key(session, label, value)

    for aad in (None, b"", AAD, os.urandom(256), os.urandom(8192)):
        sealed = caller.seal(label, b"Hello World!", aad)
        composed = hand_composed_aad(aad or b"", sealed.ctm or b"")
        assert AESGCM(value).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, composed) == b"Hello World!"
        with pytest.raises(InvalidTag):
            AESGCM(value).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, aad)


@pytest.mark.parametrize("size", [0, 1, 12, 4300, 8192])
@pytest.mark.parametrize("aad", [None, b"", AAD, bytes(8192)])
def test_the_integrity_value_is_the_hash_of_what_was_sent_and_received(
    caller: Caller, size: int, aad: bytes | None
) -> None:
    answer = caller.encrypt("demo-key", os.urandom(size), aad, cdiv=True)

    assert answer.status == 200
    assert answer.body.keys() - {"ciphertextMetadata"} == {
        "authenticationTag",
        "ciphertext",
        "initializationVector",
        "ciphertextDataIntegrityValue",
    }
    value = decoded(answer.body["ciphertextDataIntegrityValue"])
    assert len(value) == 32
    assert value == SealedMessage.of(answer, aad).integrity_value()


def test_a_null_integrity_algorithm_equals_an_absent_one(caller: Caller) -> None:
    message = caller.encryption(b"x") | {"ciphertextDataIntegrityValueAlgorithm": None}

    answer = caller.client.call(Operation.ENCRYPT, message, "demo-key")

    assert answer.status == 200
    assert "ciphertextDataIntegrityValue" not in answer.body


@pytest.mark.parametrize("algorithm", ["", "SHA_512", "sha_256", "SHA-256", "SHA256", "SHA_256 "])
def test_another_integrity_algorithm_is_a_validation_error(caller: Caller, algorithm: str) -> None:
    message = caller.encryption(b"x") | {"ciphertextDataIntegrityValueAlgorithm": algorithm}

    assert_refused(caller.client.call(Operation.ENCRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("algorithm", ["", "AES_CBC", "aes_gcm", "AES-GCM", "AES_GCM ", "AES_GCM_SIV"])
def test_another_encryption_algorithm_is_a_validation_error(caller: Caller, algorithm: str) -> None:
    message = caller.encryption(b"x") | {"encryptionAlgorithm": algorithm}

    assert_refused(caller.client.call(Operation.ENCRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("field", ["requestMetadata", "plaintext", "encryptionAlgorithm"])
def test_a_missing_field_is_a_validation_error(caller: Caller, field: str) -> None:
    message = caller.encryption(b"x", AAD, cdiv=True)
    del message[field]

    answer = caller.client.call(Operation.ENCRYPT, message, "demo-key")

    assert_refused(answer, 400, "ValidationException")
    assert field in answer.body["errorMessage"]


@pytest.mark.parametrize("value", NOT_A_STRING)
@pytest.mark.parametrize(
    "field",
    [
        "requestMetadata",
        "plaintext",
        "encryptionAlgorithm",
        "additionalAuthenticatedData",
        "ciphertextDataIntegrityValueAlgorithm",
    ],
)
def test_a_field_of_the_wrong_type_is_a_validation_error(caller: Caller, field: str, value: object) -> None:
    message = caller.encryption(b"x", AAD, cdiv=True) | {field: value}
    optional = ("additionalAuthenticatedData", "ciphertextDataIntegrityValueAlgorithm")

    answer = caller.client.call(Operation.ENCRYPT, message, "demo-key")

    if value is None and field in optional:
        assert answer.status == 200
    else:
        assert_refused(answer, 400, "ValidationException")


@pytest.mark.parametrize("member", ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"])
@pytest.mark.parametrize("value", ["absent", None, 7, ["x"], {}])
def test_request_metadata_needs_each_required_member_as_a_string(caller: Caller, member: str, value: object) -> None:
    if value == "absent":
        del caller.metadata[member]
    else:
        caller.metadata |= {member: value}

    answer = caller.encrypt("demo-key", b"x")

    assert_refused(answer, 400, "ValidationException")


@pytest.mark.parametrize("text", NOT_BASE64)
@pytest.mark.parametrize("field", ["plaintext", "additionalAuthenticatedData"])
def test_what_is_not_base64_is_a_validation_error(caller: Caller, field: str, text: str) -> None:
    message = caller.encryption(b"x", AAD) | {field: text}

    assert_refused(caller.client.call(Operation.ENCRYPT, message, "demo-key"), 400, "ValidationException")


def test_unknown_members_are_accepted_at_every_level(caller: Caller) -> None:
    caller.metadata |= {"SourceIdentity": "someone", "kmsRecipientAttestationImageSha384": [{}]}
    message = caller.encryption(b"x") | {"ciphertextDataIntegrityAlgorithm": "nonsense", "more": {"deep": [None]}}

    assert caller.client.call(Operation.ENCRYPT, message, "demo-key").status == 200


@pytest.mark.parametrize("operation", ["ReEncrypt", "GenerateDataKeyWithoutPlaintext", "SomethingNew", ""])
def test_any_kms_operation_will_do(caller: Caller, operation: str) -> None:
    caller.metadata |= {"kmsOperation": operation}

    assert caller.encrypt("demo-key", b"x").status == 200


@pytest.mark.parametrize("member", ["awsSourceVpc", "awsSourceVpce", "kmsViaService"])
@pytest.mark.parametrize("value", [None, "x", 7])
def test_an_optional_member_is_absent_null_or_a_string(caller: Caller, member: str, value: object) -> None:
    caller.metadata |= {member: value}

    answer = caller.encrypt("demo-key", b"x")

    if value == 7:
        assert_refused(answer, 400, "ValidationException")
    else:
        assert answer.status == 200


@pytest.mark.parametrize("aad", [None, AAD])
def test_an_encrypt_only_key_encrypts_unless_the_result_is_to_be_proven(caller: Caller, aad: bytes | None) -> None:
    """R-CDIV-8."""
    assert caller.encrypt("encrypt-only-key", b"x", aad).status == 200
    assert_refused(caller.encrypt("encrypt-only-key", b"x", aad, cdiv=True), 400, "InvalidKeyUsageException")


@pytest.mark.parametrize("cdiv", [False, True])
@pytest.mark.parametrize("aad", [None, AAD])
@pytest.mark.parametrize("key_id", ["decrypt-only-key", "impotent-key"])
def test_a_key_without_the_usage_does_not_encrypt(caller: Caller, key_id: str, aad: bytes | None, cdiv: bool) -> None:
    assert_refused(caller.encrypt(key_id, b"x", aad, cdiv=cdiv), 400, "InvalidKeyUsageException")


@pytest.mark.parametrize("bits", [128, 192])
def test_a_shorter_aes_key_does_not_encrypt(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str], bits: int
) -> None:
    label = unique_label("short")
    session.create_key(label, bits=bits, encrypt=True, decrypt=True)

    assert_refused(caller.encrypt(label, b"x"), 400, "InvalidKeyUsageException")


def test_a_generic_secret_does_not_encrypt(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("generic")
    session._session.generate_key(
        KeyType.GENERIC_SECRET,
        256,
        label=label,
        store=True,
        mechanism=Mechanism.GENERIC_SECRET_KEY_GEN,
        template={Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
    )

    assert_refused(caller.encrypt(label, b"x"), 400, "InvalidKeyUsageException")


def test_a_disabled_key_is_an_invalid_state(caller: Caller) -> None:
    assert_refused(caller.encrypt("disabled-key", b"x"), 400, "InvalidStateException")


@pytest.mark.parametrize("key_id", ["no-such-key", "test-not-on-the-token", "x" * 128, "x" * 129, "demo-key2"])
def test_an_unknown_key_is_not_found(caller: Caller, key_id: str) -> None:
    assert_refused(caller.encrypt(key_id, b"x"), 404, "KeyNotFoundException")


def test_two_keys_of_one_label_are_an_invalid_state(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("twice")
    import_key(session, label, bytes(32))
    import_key(session, label, bytes(range(32)))

    assert_refused(caller.encrypt(label, b"x"), 400, "InvalidStateException")


def test_a_second_key_of_a_label_in_use_is_an_invalid_state_within_seconds(
    refusing_proxy: Proxy, refusing: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    """An ambiguous key is refused also by sessions that know one of the two already, once a check has listed all."""
    label = unique_label("second")
    import_key(session, label, bytes(32))
    for _ in range(80):  # by then every session of every worker knows the key
        refusing.seal(label, b"x")

    import_key(session, label, bytes(range(32)))
    with ExitStack() as stack:

        def connect() -> Caller:
            client = stack.enter_context(XksClient(refusing_proxy.endpoint(), refusing_proxy.context()))
            client.connect()
            return Caller(client, refusing.metadata)

        for caller in on_each_worker(refusing_proxy, connect):
            eventually(lambda caller=caller: caller.encrypt(label, b"x").status, 400)

    for _ in range(40):
        assert_refused(refusing.encrypt(label, b"x"), 400, "InvalidStateException")


def test_a_label_given_to_another_key_is_refused_within_seconds(
    refusing: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    """A key is what it was: its fingerprint is on record, and its handle is checked after 5 s of use."""
    label = unique_label("moved")
    key = import_key(session, label, bytes(32))
    for _ in range(80):
        refusing.seal(label, b"x")

    key[Attribute.LABEL] = unique_label("old")
    import_key(session, label, os.urandom(32))
    time.sleep(6)

    for _ in range(40):
        assert_refused(refusing.encrypt(label, b"x"), 500, "InternalException")


def test_a_key_destroyed_and_made_again_by_another_process_is_refused(
    refusing: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("again")
    assert_refused(refusing.encrypt(label, b"x"), 404, "KeyNotFoundException")
    value = os.urandom(32)
    import_key(session, label, value)
    eventually(lambda: all(refusing.encrypt(label, b"x").status == 200 for _ in range(20)))
    for _ in range(40):
        sealed = refusing.seal(label, b"x")
        opened = AESGCM(value).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, hand_composed_aad(b"", sealed.ctm))
        assert opened == b"x"

    find_key(session, label).destroy()
    for _ in range(20):
        assert_refused(refusing.encrypt(label, b"x"), 404, "KeyNotFoundException")
    import_key(session, label, os.urandom(32))
    eventually(lambda: all(refusing.encrypt(label, b"x").status == 500 for _ in range(20)))
    for _ in range(20):
        assert_refused(refusing.encrypt(label, b"x"), 500, "InternalException")


def test_a_usage_taken_away_and_given_back_on_the_token_is_seen_at_once(
    roaming: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("usage")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    key = find_key(session, label)
    for _ in range(40):
        roaming.seal(label, b"x")

    key[Attribute.ENCRYPT] = False
    for _ in range(20):
        assert_refused(roaming.encrypt(label, b"x"), 400, "InvalidKeyUsageException")

    key[Attribute.ENCRYPT] = True
    for _ in range(20):
        assert roaming.encrypt(label, b"x").status == 200
