"""The version that a request uses, from records on disk that several processes share."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import MAXIMUM_VERSION, CiphertextMetadata
from xksproxy.config.model import Key
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.keystore.versions import KeyVersion, KeyVersions
from xksproxy.spec.errors import InternalException, InvalidCiphertextException, InvalidStateException
from xksproxy.state.versions import VersionRecord, version_table

Put = Callable[..., None]

PLAIN, SHA256 = AadEncoding.PLAIN, AadEncoding.SHA256
V1, V2 = KeyVersion(1, "foo"), KeyVersion(2, "foo.v2")


def external_key(key: Key) -> ExternalKey:
    return KeyMap([key]).resolve(key.id)


def metadata(version: int, encoding: AadEncoding = PLAIN) -> bytes:
    return CiphertextMetadata(version, encoding).pack()


@pytest.fixture
def key() -> ExternalKey:
    return external_key(Key(id="foo"))


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write a record to disk, as another process does."""

    def put(primary: int, key_id: str = "foo", **more: tuple[int, ...]) -> None:
        version_table(tmp_path, "payments").update(key_id, lambda _: VersionRecord(primary, **more))

    return put


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of the records."""
    return version_table(tmp_path, "payments").path


@pytest.fixture
def versions(tmp_path: Path) -> Callable[[], KeyVersions]:
    """The versions as a worker reads them when it starts."""
    return lambda: KeyVersions(version_table(tmp_path, "payments"))


def test_without_a_record_version_1_encrypts(versions: Callable[[], KeyVersions], key: ExternalKey, put: Put) -> None:
    assert versions().primary(key) == V1
    put(2, "another key")
    assert versions().primary(key) == V1


def test_without_a_record_the_lowest_version_listed_encrypts(versions: Callable[[], KeyVersions]) -> None:
    assert versions().primary(external_key(Key(id="foo", versions={7: "g", 3: "c"}))) == KeyVersion(3, "c")


def test_the_version_on_record_encrypts(versions: Callable[[], KeyVersions], key: ExternalKey, put: Put) -> None:
    put(2)

    assert versions().primary(key) == V2
    assert versions().primary(external_key(Key(id="foo", versions={1: "a", 2: "b"}))) == KeyVersion(2, "b")


def test_a_running_worker_reads_what_another_process_changes(
    versions: Callable[[], KeyVersions], key: ExternalKey, put: Put
) -> None:
    running = versions()
    for primary in (2, 3, 2, 1):
        before = running.primary(key)
        put(primary)
        assert running.primary(key) == before

        running.refresh()

        assert running.primary(key).number == primary


def test_a_version_on_record_that_is_not_listed_does_not_encrypt(versions: Callable[[], KeyVersions], put: Put) -> None:
    put(3)
    listed = external_key(Key(id="foo", versions={1: "a", 2: "b"}))

    with pytest.raises(InternalException, match=r"^Version 3 of the key is primary, but the proxy's configuration"):
        versions().primary(listed)


@pytest.mark.parametrize("number", [-1, 0, 65536])
def test_a_version_on_record_that_metadata_cannot_carry_does_not_encrypt(
    versions: Callable[[], KeyVersions], key: ExternalKey, put: Put, number: int
) -> None:
    put(number)

    with pytest.raises(InternalException):
        versions().primary(key)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"foo":{"primary":2}', id="cut off"),
        pytest.param(b'{"foo":{"primary":"2"}}', id="wrong type"),
        pytest.param(b'{"foo":{"primary":2,"later":1}}', id="of a later release"),
        pytest.param(b'{"foo":{}}', id="no primary"),
        pytest.param(b'{"f\xff":{"primary":2}}', id="no UTF-8"),
        pytest.param(b"\0" * 4096, id="zeroes"),
    ],
)
def test_while_the_records_were_never_readable_nothing_encrypts_or_decrypts(
    versions: Callable[[], KeyVersions], key: ExternalKey, put: Put, file: Path, content: bytes
) -> None:
    put(2, disabled=(1,))
    sound = file.read_bytes()
    file.write_bytes(content)

    running = versions()

    with pytest.raises(InternalException) as caught:
        running.primary(key)
    assert str(file) not in str(caught.value)
    assert str(file) in (caught.value.detail or "")
    for of_ciphertext in (metadata(2), b""):
        with pytest.raises(InternalException, match="cannot read the versions"):
            running.of_ciphertext(key, of_ciphertext)
    assert not running.is_on_record(key, 2)
    assert not running.is_unrecorded(key, "foo.v3")

    file.write_bytes(sound)
    running.refresh()

    assert running.primary(key) == V2
    labels = ("foo", "foo.v2", "foo.v3", "foo.v13", "bar.v3")
    assert [label for label in labels if running.is_unrecorded(key, label)] == ["foo.v3", "foo.v13"]


def test_a_state_directory_that_is_a_file_cannot_be_read(tmp_path: Path, key: ExternalKey) -> None:
    (tmp_path / "state").write_text("a file")

    with pytest.raises(InternalException):
        KeyVersions(version_table(tmp_path / "state", "payments")).primary(key)


@pytest.mark.parametrize("how", ["overwritten", "removed", "with its directory"])
def test_records_that_become_unreadable_stay_what_they_were(
    tmp_path: Path, versions: Callable[[], KeyVersions], put: Put, file: Path, how: str
) -> None:
    key = external_key(Key(id="foo"))
    put(2, proven=(3,), disabled=(1,))
    running, sound = versions(), file.read_bytes()
    if how == "overwritten":
        file.write_bytes(b"nonsense")
    elif how == "removed":
        file.unlink()
    else:
        tmp_path.rename(tmp_path.with_name("moved"))

    for _ in range(3):
        running.refresh()

        assert running.primary(key) == V2
        assert running.is_on_record(key, 3)
        with pytest.raises(InvalidStateException):
            running.of_ciphertext(key, b"")

    tmp_path.mkdir(exist_ok=True)
    newer = sound.replace(b'"revision":1', b'"revision":2')
    file.write_bytes(newer.replace(b'"primary":2', b'"primary":33'))
    running.refresh()
    assert running.primary(key).number == 33


def test_an_unreadable_record_is_logged_once_and_again_after_it_was_readable(
    versions: Callable[[], KeyVersions], put: Put, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(2)
    running, sound = versions(), file.read_bytes()

    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            file.write_bytes(b"nonsense")
            running.refresh()
            running.refresh()
            file.write_bytes(sound)
            running.refresh()

    assert [record.message for record in caplog.records] == ["key versions cannot be read"] * 2
    assert str(file) in caplog.records[0].fields["reason"]  # type: ignore[attr-defined]


@given(st.integers(1, MAXIMUM_VERSION), st.sampled_from(AadEncoding))
def test_a_ciphertext_is_of_the_version_and_encoding_that_its_metadata_names(
    tmp_path_factory: pytest.TempPathFactory, version: int, encoding: AadEncoding
) -> None:
    versions = KeyVersions(version_table(tmp_path_factory.getbasetemp() / "none", "payments"))
    key = external_key(Key(id="foo", aad_encoding="sha256", legacy_aad_encoding="plain"))

    found, found_encoding = versions.of_ciphertext(key, metadata(version, encoding))

    assert (found.number, found.label) == (version, "foo" if version == 1 else f"foo.v{version}")
    assert found_encoding is encoding


@pytest.mark.parametrize("primary", [1, 2])
@pytest.mark.parametrize("legacy", [b"", b"v0.0.1", b"key_version=1"])
def test_a_ciphertext_of_another_proxy_is_of_version_1_in_the_legacy_encoding(
    versions: Callable[[], KeyVersions], put: Put, primary: int, legacy: bytes
) -> None:
    put(primary)
    key = external_key(Key(id="foo", legacy_aad_encoding="sha256", legacy_metadata=(b"v0.0.1", b"key_version=1")))

    assert versions().of_ciphertext(key, legacy) == (V1, SHA256)


@pytest.mark.parametrize(
    "foreign", [b"v0.0.2", b"v0.0.1 ", b"\xf9", b"\xf9\0\0\0", b"\xf9\2\0\1", b"\xf8\0\0\1", metadata(1) + b"\0"]
)
def test_metadata_that_is_neither_the_proxys_own_nor_configured_is_refused_r_dec_3(
    versions: Callable[[], KeyVersions], foreign: bytes
) -> None:
    key = external_key(Key(id="foo", legacy_metadata=(b"v0.0.1",)))

    with pytest.raises(InvalidCiphertextException, match="is not from this proxy"):
        versions().of_ciphertext(key, foreign)


def test_a_version_that_is_not_listed_is_refused(versions: Callable[[], KeyVersions]) -> None:
    key = external_key(Key(id="foo", versions={2: "b", 3: "c"}, legacy_metadata=(b"v0.0.1",)))

    assert versions().of_ciphertext(key, metadata(3)) == (KeyVersion(3, "c"), PLAIN)
    for absent in (metadata(1), metadata(4), b"", b"v0.0.1"):
        with pytest.raises(InvalidCiphertextException, match=r"^The external key has no version [14]$"):
            versions().of_ciphertext(key, absent)


def test_a_disabled_version_does_not_decrypt_until_it_is_enabled(
    versions: Callable[[], KeyVersions], key: ExternalKey, put: Put
) -> None:
    put(3, disabled=(1, 4))
    running = versions()

    for metadata_of_disabled in (b"", metadata(1), metadata(1, SHA256), metadata(4)):
        with pytest.raises(InvalidStateException, match=r"^Version [14] of the external key is disabled$"):
            running.of_ciphertext(key, metadata_of_disabled)
    assert running.of_ciphertext(key, metadata(2))[0] == V2

    put(3, disabled=(4,))
    running.refresh()
    assert running.of_ciphertext(key, b"")[0] == V1


def test_the_first_the_primary_and_the_verified_versions_are_on_record(
    versions: Callable[[], KeyVersions], key: ExternalKey, put: Put
) -> None:
    assert [number for number in range(1, 9) if versions().is_on_record(key, number)] == [1]

    put(3, proven=(5, 6), disabled=(7,))

    assert [number for number in range(1, 9) if versions().is_on_record(key, number)] == [1, 3, 5, 6]
    listed = external_key(Key(id="foo", versions={4: "d", 2: "b"}))
    assert [number for number in range(1, 9) if versions().is_on_record(listed, number)] == [2, 3, 5, 6]
