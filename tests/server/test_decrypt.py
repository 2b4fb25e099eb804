"""Decrypt to the letter (R-DEC-*, R-CDIV-1 to R-CDIV-3, Q-3, Q-4, Q-5, Q-13)."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pkcs11 import Attribute
from server_support import (
    Caller,
    SealedMessage,
    assert_refused,
    decoded,
    encoded,
    find_key,
    hand_composed_aad,
    import_key,
)
from support import eventually

from xksproxy.client.xks import Answer
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.spec.uri import Operation

HELLO = b"Hello World!"
AAD = b"project=nile,department=marketing"
CTM = b"key_version=1"
"""A legacy value that the keys test-* and demo-key declare, as `b"ctm"` and `b"m"` are."""
IV_OF_12 = decoded("HMrlRw85cAJUd5Ax")
IV_OF_16 = bytes(range(16))


class KnownKey:
    """A key on the token whose value the test knows: software seals, the proxy opens."""

    def __init__(self, session: HsmSession, label: str, value: bytes, **attributes: bool) -> None:
        self.label = label
        self.cipher = AESGCM(value)
        import_key(session, label, value, **attributes)

    def seal(
        self, plaintext: bytes, aad: bytes | None = AAD, ctm: bytes | None = CTM, iv: bytes | None = None
    ) -> SealedMessage:
        iv = iv or os.urandom(12)
        output = self.cipher.encrypt(iv, plaintext, hand_composed_aad(aad or b"", ctm or b""))
        return SealedMessage(iv, output[:-16], output[-16:], aad, ctm)


@pytest.fixture
def known(session: HsmSession, unique_label: Callable[[str], str]) -> KnownKey:
    """A fresh key of a known value."""
    return KnownKey(session, unique_label("known"), os.urandom(32))


@pytest.fixture
def sealed(caller: Caller) -> SealedMessage:
    """What the proxy encrypted under demo-key."""
    return caller.seal("demo-key", HELLO, AAD)


def flips(data: bytes) -> Iterator[bytes]:
    """The data with each single bit of it flipped."""
    for bit in range(8 * len(data)):
        yield bytes(byte ^ (1 << bit % 8) * (index == bit // 8) for index, byte in enumerate(data))


def assert_rejected(answer: Answer) -> None:
    assert_refused(answer, 400, "InvalidCiphertextException")


def test_the_answer_has_exactly_the_one_field(caller: Caller, sealed: SealedMessage) -> None:
    answer = caller.decrypt("demo-key", sealed)

    assert (answer.status, answer.body) == (200, {"plaintext": encoded(HELLO)})


@pytest.mark.parametrize(
    "vector",
    [
        (IV_OF_12, decoded("qNtNoLf/0yh1Cm1F"), decoded("Hlq5hSgZuRo2Qx7eEWUYfQ=="), AAD, CTM),
        (IV_OF_12, decoded("qNtNoLf/0yh1Cm1F"), decoded("KTHMR5Qu6RPqRJ7P68F5XA=="), None, None),
        (IV_OF_16, decoded("LwnMGlbEHUfvk78I"), decoded("VXTIxe/VTTh8N8Swgf21qw=="), AAD, CTM),
        (IV_OF_16, decoded("LwnMGlbEHUfvk78I"), decoded("Yh+9B1PiHTGgMEShe1nUig=="), None, None),
    ],
)
def test_vector_gcm_1(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str], vector: tuple[bytes, ...]
) -> None:
    known = KnownKey(session, unique_label("vector"), bytes(range(32)))

    answer = caller.decrypt(known.label, SealedMessage(*vector))

    assert (answer.status, answer.body) == (200, {"plaintext": encoded(HELLO)})


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4300, 8192])
@pytest.mark.parametrize("iv_bytes", [12, 16])
def test_a_ciphertext_of_any_supported_size_is_opened(
    caller: Caller, known: KnownKey, size: int, iv_bytes: int
) -> None:
    plaintext = os.urandom(size)

    answer = caller.decrypt(known.label, known.seal(plaintext, iv=os.urandom(iv_bytes)))

    assert (answer.status, answer.body) == (200, {"plaintext": encoded(plaintext)})


def test_a_ciphertext_of_the_tokens_own_with_an_iv_of_16_bytes_is_opened(caller: Caller, session: HsmSession) -> None:
    handle = session._keys.find("demo-key").handle
    composed = hand_composed_aad(AAD, CTM)
    output, _ = session._cryptoki.gcm_encrypt(session._handle, handle, iv=IV_OF_16, aad=composed, plaintext=HELLO)

    answer = caller.decrypt("demo-key", SealedMessage(IV_OF_16, output[:-16], output[-16:], AAD, CTM))

    assert (answer.status, answer.body) == (200, {"plaintext": encoded(HELLO)})


@pytest.mark.parametrize("aad_bytes", [0, 1, 255, 256, 8192])
@pytest.mark.parametrize("ctm_bytes", [0, 1, 20])
def test_aad_and_metadata_of_any_supported_size_are_taken(
    caller: Caller, known: KnownKey, aad_bytes: int, ctm_bytes: int
) -> None:
    sealed = known.seal(HELLO, os.urandom(aad_bytes), b"m" * ctm_bytes)

    assert caller.decrypt(known.label, sealed).body == {"plaintext": encoded(HELLO)}


@pytest.mark.parametrize(("ciphertext", "aad"), [(8193, 0), (8193, 8192), (0, 8193), (8192, 8193), (20000, 0)])
def test_one_byte_more_than_supported_is_unsupported(caller: Caller, ciphertext: int, aad: int) -> None:
    message = SealedMessage(bytes(12), bytes(ciphertext), bytes(16), bytes(aad))

    assert_refused(caller.decrypt("demo-key", message), 501, "UnsupportedOperationException")


@pytest.mark.parametrize("aad", [None, b""])
@pytest.mark.parametrize("ctm", [None, b""])
def test_empty_aad_and_metadata_equal_absent_ones(
    caller: Caller, known: KnownKey, aad: bytes | None, ctm: bytes | None
) -> None:
    sealed = replace(known.seal(HELLO, None, None), aad=aad, ctm=ctm)

    assert caller.decrypt(known.label, sealed).body == {"plaintext": encoded(HELLO)}


@pytest.mark.parametrize("field", ["additionalAuthenticatedData", "ciphertextMetadata"])
def test_a_null_optional_field_equals_an_absent_one(caller: Caller, known: KnownKey, field: str) -> None:
    message = caller.decryption(known.seal(HELLO, None, None)) | {field: None}

    assert caller.client.call(Operation.DECRYPT, message, known.label).body == {"plaintext": encoded(HELLO)}


@pytest.mark.parametrize("length", [0, 1, 8, 11, 13, 14, 15, 17, 24, 32])
def test_an_iv_of_another_length_is_an_invalid_ciphertext(caller: Caller, known: KnownKey, length: int) -> None:
    sealed = known.seal(HELLO, iv=os.urandom(length) if length >= 8 else None)

    assert_rejected(caller.decrypt(known.label, replace(sealed, iv=sealed.iv[:length])))


@pytest.mark.parametrize("length", [0, 1, 4, 8, 12, 13, 14, 15, 17, 28, 32])
def test_a_tag_of_another_length_is_an_invalid_ciphertext(caller: Caller, known: KnownKey, length: int) -> None:
    """Also where ciphertext and tag, put together, are what the token made."""
    sealed = known.seal(HELLO)
    whole = sealed.ciphertext + sealed.tag

    assert_rejected(caller.decrypt(known.label, replace(sealed, tag=(2 * sealed.tag)[:length])))
    cut = max(0, len(whole) - length)
    assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=whole[:cut], tag=whole[cut:])))


@pytest.mark.parametrize("length", [21, 22, 255])
def test_metadata_above_20_bytes_is_an_invalid_ciphertext(caller: Caller, known: KnownKey, length: int) -> None:
    assert_rejected(caller.decrypt(known.label, known.seal(HELLO, AAD, bytes(length))))


@pytest.mark.parametrize("field", ["ciphertext", "iv", "tag", "aad", "ctm"])
def test_no_bit_can_be_flipped(caller: Caller, known: KnownKey, field: str) -> None:
    sealed = known.seal(b"four", b"aad", b"ctm")
    assert caller.decrypt(known.label, sealed).status == 200

    for flipped in flips(getattr(sealed, field)):
        assert_rejected(caller.decrypt(known.label, replace(sealed, **{field: flipped})))


def test_no_bit_of_the_proxys_own_answer_can_be_flipped(caller: Caller) -> None:
    sealed = caller.seal("demo-key", b"four", b"aad")

    for field in ("ciphertext", "iv", "tag", "aad"):
        for flipped in flips(getattr(sealed, field)):
            assert_rejected(caller.decrypt("demo-key", replace(sealed, **{field: flipped})))


@pytest.mark.parametrize(
    "change",
    [
        {"aad": None},
        {"aad": AAD[:-1]},
        {"aad": AAD + b"\0"},
        {"aad": b""},
        {"ctm": None},
        {"ctm": b""},
        {"ctm": CTM[:-1]},
        {"ctm": CTM + b"\0"},
        {"aad": AAD + CTM, "ctm": None},
        {"aad": AAD + bytes([len(CTM)]) + CTM, "ctm": None},
        {"aad": AAD[:20], "ctm": AAD[20:] + CTM[:7]},
        {"aad": AAD + CTM[:1], "ctm": CTM[1:]},
        {"aad": AAD[:-1], "ctm": AAD[-1:] + CTM},
        {"aad": CTM, "ctm": AAD[:20]},
        {"aad": hand_composed_aad(AAD, CTM), "ctm": None},
    ],
)
def test_aad_and_metadata_cannot_be_altered_added_removed_or_moved(
    caller: Caller, known: KnownKey, change: dict[str, Any]
) -> None:
    """R-DEC-3, R-DEC-4."""
    assert_rejected(caller.decrypt(known.label, replace(known.seal(HELLO), **change)))


@pytest.mark.parametrize("change", [{"ctm": b"\0"}, {"aad": b"\0"}, {"ctm": CTM}, {"aad": AAD}, {"aad": b"\0\0\0"}])
def test_aad_and_metadata_cannot_be_added_where_there_were_none(
    caller: Caller, known: KnownKey, change: dict[str, Any]
) -> None:
    assert_rejected(caller.decrypt(known.label, replace(known.seal(HELLO, None, None), **change)))


def test_metadata_cannot_be_added_to_what_the_proxy_encrypted(caller: Caller, sealed: SealedMessage) -> None:
    assert_rejected(caller.decrypt("demo-key", replace(sealed, ctm=(sealed.ctm or b"") + b"x")))


def test_ciphertext_and_tag_cannot_be_cut_or_shifted(caller: Caller, known: KnownKey) -> None:
    sealed = known.seal(HELLO)
    whole = sealed.ciphertext + sealed.tag

    assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=b"")))
    assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=HELLO)))
    for cut in range(len(sealed.ciphertext)):
        assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=whole[:cut], tag=whole[cut:][:16])))
        assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=whole[:cut])))
    assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=sealed.ciphertext + b"\0")))
    assert_rejected(caller.decrypt(known.label, replace(sealed, ciphertext=whole)))


def test_a_ciphertext_made_under_a_bare_aad_is_invalid(caller: Caller, known: KnownKey) -> None:
    """The length-prefixed form is the only one (Q-6)."""
    iv = os.urandom(12)

    for bare in (AAD, AAD + CTM, b""):
        output = known.cipher.encrypt(iv, HELLO, bare)
        assert_rejected(caller.decrypt(known.label, SealedMessage(iv, output[:-16], output[-16:], AAD, CTM)))


def test_another_key_does_not_open_it(caller: Caller, known: KnownKey, sealed: SealedMessage) -> None:
    assert_rejected(caller.decrypt(known.label, sealed))


def test_a_rejected_ciphertext_does_not_spoil_the_next_good_one(caller: Caller, sealed: SealedMessage) -> None:
    for _ in range(20):
        assert_rejected(caller.decrypt("demo-key", replace(sealed, tag=bytes(16))))
        assert caller.decrypt("demo-key", sealed).body == {"plaintext": encoded(HELLO)}
        assert caller.encrypt("demo-key", HELLO, cdiv=True).status == 200


@pytest.mark.parametrize(
    "field",
    ["requestMetadata", "ciphertext", "encryptionAlgorithm", "initializationVector", "authenticationTag"],
)
def test_a_missing_field_is_a_validation_error(caller: Caller, sealed: SealedMessage, field: str) -> None:
    message = caller.decryption(sealed)
    del message[field]

    answer = caller.client.call(Operation.DECRYPT, message, "demo-key")

    assert_refused(answer, 400, "ValidationException")
    assert field in answer.body["errorMessage"]


@pytest.mark.parametrize("value", [None, 7, True, ["QQ=="], {"x": "QQ=="}])
@pytest.mark.parametrize(
    "field",
    ["requestMetadata", "ciphertext", "encryptionAlgorithm", "initializationVector", "authenticationTag"],
)
def test_a_field_of_the_wrong_type_is_a_validation_error(
    caller: Caller, sealed: SealedMessage, field: str, value: object
) -> None:
    message = caller.decryption(sealed) | {field: value}

    assert_refused(caller.client.call(Operation.DECRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("value", [7, True, ["QQ=="], {"x": "QQ=="}])
@pytest.mark.parametrize("field", ["additionalAuthenticatedData", "ciphertextMetadata"])
def test_an_optional_field_of_the_wrong_type_is_a_validation_error(
    caller: Caller, sealed: SealedMessage, field: str, value: object
) -> None:
    message = caller.decryption(sealed) | {field: value}

    assert_refused(caller.client.call(Operation.DECRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("text", ["A", "AAA", "QUJD=", "QQ==QQ==", "QUJD\n", "-_-_", "QUJ*", "QUJDü"])
@pytest.mark.parametrize(
    "field",
    [
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "additionalAuthenticatedData",
        "ciphertextMetadata",
    ],
)
def test_what_is_not_base64_is_a_validation_error(caller: Caller, sealed: SealedMessage, field: str, text: str) -> None:
    message = caller.decryption(sealed) | {field: text}

    assert_refused(caller.client.call(Operation.DECRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("algorithm", ["", "AES_CBC", "aes_gcm", "AES_GCM "])
def test_another_encryption_algorithm_is_a_validation_error(
    caller: Caller, sealed: SealedMessage, algorithm: str
) -> None:
    message = caller.decryption(sealed) | {"encryptionAlgorithm": algorithm}

    assert_refused(caller.client.call(Operation.DECRYPT, message, "demo-key"), 400, "ValidationException")


@pytest.mark.parametrize("member", ["awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"])
@pytest.mark.parametrize("value", ["absent", None, 7])
def test_request_metadata_needs_each_required_member_as_a_string(
    caller: Caller, sealed: SealedMessage, member: str, value: object
) -> None:
    if value == "absent":
        del caller.metadata[member]
    else:
        caller.metadata |= {member: value}

    assert_refused(caller.decrypt("demo-key", sealed), 400, "ValidationException")


def test_unknown_members_and_values_are_accepted(caller: Caller, sealed: SealedMessage) -> None:
    caller.metadata |= {"kmsOperation": "SomethingNew", "SourceIdentity": ["x"], "kmsKeyArn": "a" * 2048}
    message = caller.decryption(sealed) | {"more": {"deep": [None]}}

    assert caller.client.call(Operation.DECRYPT, message, "demo-key").body == {"plaintext": encoded(HELLO)}


def test_a_decrypt_only_key_decrypts(caller: Caller, session: HsmSession, unique_label: Callable[[str], str]) -> None:
    known = KnownKey(session, unique_label("decrypt-only"), os.urandom(32), encrypt=False)

    assert caller.decrypt(known.label, known.seal(HELLO)).body == {"plaintext": encoded(HELLO)}


@pytest.mark.parametrize("aad", [None, AAD])
def test_an_encrypt_only_key_does_not_decrypt(caller: Caller, aad: bytes | None) -> None:
    sealed = caller.seal("encrypt-only-key", HELLO, aad)

    assert_refused(caller.decrypt("encrypt-only-key", sealed), 400, "InvalidKeyUsageException")


def test_a_key_without_any_usage_does_not_decrypt(caller: Caller, sealed: SealedMessage) -> None:
    assert_refused(caller.decrypt("impotent-key", sealed), 400, "InvalidKeyUsageException")


def test_a_shorter_aes_key_does_not_decrypt(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    known = KnownKey(session, unique_label("short"), os.urandom(16))

    assert_refused(caller.decrypt(known.label, known.seal(HELLO)), 400, "InvalidKeyUsageException")


def test_a_disabled_key_is_an_invalid_state(caller: Caller, sealed: SealedMessage) -> None:
    assert_refused(caller.decrypt("disabled-key", sealed), 400, "InvalidStateException")


@pytest.mark.parametrize("key_id", ["no-such-key", "test-not-on-the-token", "x" * 129])
def test_an_unknown_key_is_not_found(caller: Caller, sealed: SealedMessage, key_id: str) -> None:
    assert_refused(caller.decrypt(key_id, sealed), 404, "KeyNotFoundException")


def test_two_keys_of_one_label_are_an_invalid_state(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    known = KnownKey(session, unique_label("twice"), os.urandom(32))
    import_key(session, known.label, os.urandom(32))

    assert_refused(caller.decrypt(known.label, known.seal(HELLO)), 400, "InvalidStateException")


def test_a_key_destroyed_by_another_process_is_refused_at_once_and_another_under_its_label_is_not_used(
    refusing: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("again")
    first = KnownKey(session, label, os.urandom(32))
    old = first.seal(HELLO)
    for _ in range(80):
        assert refusing.decrypt(label, old).status == 200

    find_key(session, label).destroy()
    for _ in range(20):
        assert_refused(refusing.decrypt(label, old), 404, "KeyNotFoundException")

    second = KnownKey(session, label, os.urandom(32))
    # Each worker remembers for 2 s that there was none.
    eventually(lambda: {refusing.decrypt(label, old).status for _ in range(20)}, {500})
    for _ in range(20):
        assert_refused(refusing.decrypt(label, old), 500, "InternalException")
        assert_refused(refusing.decrypt(label, second.seal(HELLO)), 500, "InternalException")


def test_a_usage_taken_away_on_the_token_is_seen_at_once(
    roaming: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    known = KnownKey(session, unique_label("usage"), os.urandom(32))
    sealed = known.seal(HELLO)
    for _ in range(80):
        assert roaming.decrypt(known.label, sealed).status == 200

    find_key(session, known.label)[Attribute.DECRYPT] = False

    for _ in range(20):
        assert_refused(roaming.decrypt(known.label, sealed), 400, "InvalidKeyUsageException")
