"""The ciphertext metadata that the proxy writes: four bytes that are read as what was written, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import MAXIMUM_VERSION, CiphertextMetadata, UnknownMetadata, is_proxy_metadata

METADATA = st.builds(CiphertextMetadata, st.integers(1, MAXIMUM_VERSION), st.sampled_from(AadEncoding))


def read(data: bytes) -> CiphertextMetadata | None:
    try:
        return CiphertextMetadata.unpack(data)
    except UnknownMetadata:
        return None


@pytest.mark.parametrize(
    ("version", "encoding", "packed"),
    [
        (1, AadEncoding.PLAIN, "f9000001"),
        (2, AadEncoding.SHA256, "f9010002"),
        (256, AadEncoding.PLAIN, "f9000100"),
        (MAXIMUM_VERSION, AadEncoding.SHA256, "f901ffff"),
    ],
)
def test_the_layout_never_changes(version: int, encoding: AadEncoding, packed: str) -> None:
    # Ciphertexts outlive every release.
    assert CiphertextMetadata(version, encoding).pack().hex() == packed
    assert CiphertextMetadata.unpack(bytes.fromhex(packed)) == CiphertextMetadata(version, encoding)


@given(METADATA)
def test_what_was_packed_is_read_back(metadata: CiphertextMetadata) -> None:
    assert CiphertextMetadata.unpack(metadata.pack()) == metadata


@given(st.binary(max_size=20) | st.binary(min_size=3, max_size=3).map(lambda rest: b"\xf9" + rest))
def test_bytes_have_one_meaning_at_most(data: bytes) -> None:
    metadata = read(data)

    assert metadata is None or metadata.pack() == data


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 20])
def test_another_length_is_refused_with_both_lengths(length: int) -> None:
    with pytest.raises(UnknownMetadata, match=f"^it has {length} bytes, and format 1 has 4$"):
        CiphertextMetadata.unpack(b"\xf9" * length)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("f9000000", id="version 0"),
        pytest.param("f9010000", id="version 0, sha256"),
        pytest.param("f9020001", id="the next encoding"),
        pytest.param("f9ff0001", id="the last encoding"),
        pytest.param("f8000001", id="another format"),
        pytest.param("fa000001", id="the next format"),
        pytest.param("f1000001", id="no format"),
        pytest.param("76312e30", id="text"),
    ],
)
def test_what_is_none_of_format_1_is_refused(data: str) -> None:
    with pytest.raises(UnknownMetadata, match="is not valid in format 1"):
        CiphertextMetadata.unpack(bytes.fromhex(data))


@given(st.binary(max_size=20))
def test_the_first_byte_alone_marks_metadata(data: bytes) -> None:
    assert is_proxy_metadata(data) == (data[:1] >= b"\xf8")
