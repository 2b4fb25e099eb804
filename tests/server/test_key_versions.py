"""Key versions, AAD encodings and the count of encryptions, as KMS notices them (R-ENC-8, R-DEC-3, R-CDIV-4)."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_command
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from server_support import (
    Caller,
    SealedMessage,
    assert_refused,
    decoded,
    encoded,
    hand_composed_aad,
    import_key,
    on_each_worker,
)
from support import Proxy, eventually

from xksproxy.client.xks import Answer, XksClient
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.spec.uri import Operation
from xksproxy.state.usage import UsageBook

HELLO = b"Hello World!"
AAD = b"project=nile,department=marketing"
LEGACY_KEY = bytes(range(32))


def metadata(version: int, encoding: int = 0) -> bytes:
    """The format, written down a second time."""
    return bytes([0xF9, encoding]) + version.to_bytes(2, "big")


def composed_with_digest(aad: bytes | None, ctm: bytes) -> bytes:
    digest = b"" if aad is None else hashlib.sha256(aad).digest()
    return len(aad or b"").to_bytes(2, "big") + digest + bytes([len(ctm)]) + ctm


REQUEST_METADATA = dict.fromkeys(("awsPrincipalArn", "kmsKeyArn", "kmsOperation", "kmsRequestId"), "x")


def rotate(proxy: Proxy, key_id: str) -> None:
    """Rotate to version 2 as an operator does, and wait until every worker follows."""
    run_command("keys", "rotate", key_id, "--config", proxy.environment.config, "--keystore", "dev").check_returncode()
    with ExitStack() as stack:

        def connect() -> Caller:
            client = stack.enter_context(XksClient(proxy.endpoint(), proxy.context()))
            client.connect()
            return Caller(client, REQUEST_METADATA)

        wanted = encoded(metadata(2))
        for caller in on_each_worker(proxy, connect):
            eventually(lambda caller=caller: caller.encrypt(key_id, HELLO).body.get("ciphertextMetadata"), wanted)


def assert_rejected(caller: Caller, key_id: str, sealed: SealedMessage) -> None:
    """Searches for versions that do not exist are limited, so that some answers ask for another try."""

    def answer() -> Answer | None:
        answer = caller.decrypt(key_id, sealed)
        return None if answer.body.get("errorName") == "ThrottlingException" else answer

    assert_refused(eventually(answer), 400, "InvalidCiphertextException")


@pytest.fixture
def key_id(session: HsmSession, unique_label: Callable[[str], str]) -> str:
    """A fresh key."""
    label = unique_label("versions")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    return label


@pytest.fixture(scope="module")
def versions(proxy: Proxy, connection: Connection) -> tuple[str, dict[int, SealedMessage]]:
    """A key that was rotated once, and what each version encrypted."""
    session = HsmSession(connection)
    label = f"test-rotated-{time.time_ns():x}"
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    session.close()
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        caller = Caller(client, REQUEST_METADATA)
        first = caller.seal(label, HELLO, AAD)
        rotate(proxy, label)
        return label, {1: first, 2: caller.seal(label, HELLO, AAD)}


def test_the_version_travels_in_four_bytes_of_metadata(versions: tuple[str, dict[int, SealedMessage]]) -> None:
    _, sealed = versions

    assert {number: message.ctm for number, message in sealed.items()} == {1: metadata(1), 2: metadata(2)}


def test_after_a_rotation_each_version_still_decrypts(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]]
) -> None:
    key_id, sealed = versions

    assert [caller.open(key_id, message) for message in sealed.values()] == [HELLO, HELLO]


def changes(data: bytes) -> Iterator[bytes]:
    """Every other value at a distance of one bit, every truncation, and extensions."""
    for bit in range(8 * len(data)):
        yield bytes(byte ^ (1 << bit % 8) * (index == bit // 8) for index, byte in enumerate(data))
    for length in range(len(data)):
        yield data[:length]
    for more in (b"\0", b"\1", data, data * 4):
        yield data + more


@pytest.mark.parametrize("version", [1, 2])
def test_metadata_changed_in_any_bit_or_cut_anywhere_is_an_invalid_ciphertext(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]], version: int
) -> None:
    # R-DEC-3
    key_id, sealed = versions

    for changed in changes(metadata(version)):
        assert_rejected(caller, key_id, replace(sealed[version], ctm=changed))


@pytest.mark.parametrize("version", [1, 2])
def test_no_other_metadata_that_parses_opens_a_ciphertext(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]], version: int
) -> None:
    """All that a confused client could send of what the proxy itself writes."""
    key_id, sealed = versions

    for encoding in (0, 1):
        for other in (1, 2):
            if (encoding, other) != (0, version):
                assert_rejected(caller, key_id, replace(sealed[version], ctm=metadata(other, encoding)))


@pytest.mark.parametrize("named", [metadata(2), metadata(9), b"\xf9\x00"])
def test_a_key_that_may_not_decrypt_says_so_whatever_version_the_metadata_names(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]], named: bytes
) -> None:
    """The ciphertext of a rotated key, sent to a key that has no such version (R-ERR-1)."""
    _, sealed = versions

    for key_id in ("encrypt-only-key", "impotent-key"):
        assert_refused(caller.decrypt(key_id, replace(sealed[2], ctm=named)), 400, "InvalidKeyUsageException")


def test_metadata_moved_into_the_aad_is_an_invalid_ciphertext(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]]
) -> None:
    # R-DEC-3
    key_id, sealed = versions

    for aad in (AAD + metadata(2), AAD + b"\4" + metadata(2), hand_composed_aad(AAD, metadata(2))):
        assert_rejected(caller, key_id, replace(sealed[2], aad=aad, ctm=None))


def test_a_version_is_no_external_key_of_its_own(
    caller: Caller, versions: tuple[str, dict[int, SealedMessage]]
) -> None:
    """`foo.v2` is a legal external key id, and matches test-* here."""
    key_id, _ = versions

    for operation, message in (
        (Operation.ENCRYPT, caller.encryption(HELLO)),
        (Operation.GET_KEY_METADATA, {"requestMetadata": caller.metadata}),
    ):
        assert_refused(caller.client.call(operation, message, f"{key_id}.v2"), 404, "KeyNotFoundException")


def test_get_key_metadata_tells_of_the_primary_version(
    caller: Caller, session: HsmSession, versions: tuple[str, dict[int, SealedMessage]]
) -> None:
    key_id, _ = versions

    answer = caller.client.call(Operation.GET_KEY_METADATA, {"requestMetadata": caller.metadata}, key_id)

    assert answer.body == {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}


def test_a_version_made_by_others_decrypts_before_it_was_ever_heard_of(
    caller: Caller, session: HsmSession, key_id: str
) -> None:
    """As on a second machine that shares the HSM: a search finds it, though no listing has yet."""
    import_key(session, f"{key_id}.v7", LEGACY_KEY)
    output = AESGCM(LEGACY_KEY).encrypt(bytes(11) + b"\1", HELLO, hand_composed_aad(AAD, metadata(7)))

    sealed = SealedMessage(bytes(11) + b"\1", output[:-16], output[-16:], AAD, metadata(7))

    assert caller.open(key_id, sealed) == HELLO


def test_a_ciphertext_without_metadata_is_of_the_first_version(
    caller: Caller, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("old")
    import_key(session, label, LEGACY_KEY)
    output = AESGCM(LEGACY_KEY).encrypt(bytes(11) + b"\2", HELLO, hand_composed_aad(AAD, b""))

    assert caller.open(label, SealedMessage(bytes(11) + b"\2", output[:-16], output[-16:], AAD, None)) == HELLO


# Written by AWS's sample proxy 3.1.2 under LEGACY_KEY, without and with ciphertext_metadata_b64 = "djAuMC4x".
SAMPLE = [
    (None, None, "NQdXh6fLBSGs0uz1", "YTXIXb4u0yWxrHqM", "S8uEU0b79sZiyYog3qs1Sw=="),
    (b"", None, "AN9wQeSZuU0RIgX1", "PzSEcGm6dEEH5RPo", "Yn739bJZDoy0aUgZgL/XXw=="),
    (b"project=nile", None, "VI6K1hwLc2SBiCZe", "MGyle6Mli3a2ofZY", "9CfT1tboE6krENugqvdFLw=="),
    (None, b"v0.0.1", "fMIhghTwYcVE3lzg", "/foX+M/nIA3Dfm7r", "tUK3v1p8ci6b2XixjtjMBQ=="),
    (b"", b"v0.0.1", "bQ4cKvDac51v6dO+", "hqj7tNKnpKHpooqc", "kEw2J5upmojqBPAIM+6+Dg=="),
    (b"project=nile", b"v0.0.1", "2TQKOnkequH5ALLS", "81BKoWI7wJf1WQ6y", "uT3kq74Lnqm1Z6Q23kk86A=="),
]


@pytest.fixture(scope="module")
def moved_key(connection: Connection) -> str:
    """A key of a known value that the proxy exposes with aad_encoding = "sha256"."""
    session = HsmSession(connection)
    label = f"moved-{time.time_ns():x}"
    import_key(session, label, LEGACY_KEY)
    session.close()
    return label


def test_the_time_of_a_decryption_is_recorded(proxy: Proxy, caller: Caller, key_id: str) -> None:
    """`keys disable-version` asks for --force by it."""
    book = UsageBook(Path(load_config(proxy.environment.config).state.directory))
    sealed = caller.seal(key_id, HELLO, AAD)
    assert book.read(key_id).last_decrypted is None

    caller.open(key_id, sealed)

    eventually(lambda: book.read(key_id).last_decrypted)


@pytest.mark.parametrize(("aad", "ctm", "ciphertext", "iv", "tag"), SAMPLE)
def test_what_the_sample_proxy_wrote_is_read(  # noqa: PLR0917 - a vector
    caller: Caller, moved_key: str, aad: bytes | None, ctm: bytes | None, ciphertext: str, iv: str, tag: str
) -> None:
    sealed = SealedMessage(decoded(iv), decoded(ciphertext), decoded(tag), aad, ctm)

    assert caller.open(moved_key, sealed) == HELLO
    # There an empty AAD that is present differs from an absent one.
    other = {None: b"", b"": None}.get(aad, b"project=nil")
    assert_rejected(caller, moved_key, replace(sealed, aad=other))
    for changed in changes(ctm or metadata(1, 1)):
        if changed != (ctm or b""):
            assert_rejected(caller, moved_key, replace(sealed, ctm=changed))


@pytest.mark.parametrize("aad", [None, b"", AAD, bytes(8192)])
def test_with_sha256_the_hsm_sees_the_digest_of_the_aad(caller: Caller, moved_key: str, aad: bytes | None) -> None:
    sealed = caller.seal(moved_key, HELLO, aad)

    assert sealed.ctm == metadata(1, 1)
    composed = composed_with_digest(aad, metadata(1, 1))
    assert AESGCM(LEGACY_KEY).decrypt(sealed.iv, sealed.ciphertext + sealed.tag, composed) == HELLO
    assert caller.open(moved_key, sealed) == HELLO


def test_with_sha256_no_bit_of_the_metadata_can_be_changed(caller: Caller, moved_key: str) -> None:
    sealed = caller.seal(moved_key, HELLO, AAD)

    for changed in changes(metadata(1, 1)):
        assert_rejected(caller, moved_key, replace(sealed, ctm=changed))


def test_each_ciphertext_remembers_its_aad_encoding(caller: Caller, moved_key: str) -> None:
    """A key whose configuration changed from plain to sha256."""
    output = AESGCM(LEGACY_KEY).encrypt(bytes(11) + b"\3", HELLO, hand_composed_aad(AAD, metadata(1, 0)))

    assert caller.open(moved_key, SealedMessage(bytes(11) + b"\3", output[:-16], output[-16:], AAD, metadata(1, 0)))


def test_a_key_encrypts_no_more_often_than_it_may_and_goes_on_after_a_rotation(
    proxy: Proxy, caller: Caller, session: HsmSession
) -> None:
    label = f"limited-{time.time_ns():x}"
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    sealed = [caller.seal(label, HELLO, AAD)]
    while (answer := caller.client.call(Operation.ENCRYPT, caller.encryption(HELLO), label)).status == 200:
        sealed.append(sealed[0])
        assert len(sealed) <= 24

    assert_refused(answer, 400, "InvalidStateException")
    assert "keys rotate" in answer.body["errorMessage"]
    assert caller.open(label, sealed[0]) == HELLO

    rotate(proxy, label)

    assert caller.seal(label, HELLO, AAD).ctm == metadata(2)
    assert caller.open(label, sealed[0]) == HELLO
