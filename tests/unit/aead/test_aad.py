"""The additional authenticated data that the HSM gets (R-CDIV-1 to R-CDIV-3), vectors AAD-1 and GCM-1."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.aead.aad import AadEncoding, compose_aad

AAD = b"project=nile,department=marketing"
METADATA = b"key_version=1"
AAD_HEX = "70726f6a6563743d6e696c652c6465706172746d656e743d6d61726b6574696e67"
METADATA_HEX = "6b65795f76657273696f6e3d31"
KEY = bytes(range(32))
IV_12 = "HMrlRw85cAJUd5Ax"
IV_16 = "AAECAwQFBgcICQoLDA0ODw=="

AADS = st.binary(max_size=300)
METADATAS = st.binary(max_size=20)
PAIRS = st.tuples(st.none() | st.binary(max_size=40), METADATAS)


def taken_apart(composed: bytes) -> tuple[bytes, bytes]:
    """AAD and metadata out of the composed form, as R-CDIV-2 describes it."""
    length = int.from_bytes(composed[:2], "big")
    aad, rest = composed[2 : 2 + length], composed[2 + length :]
    assert rest[0] == len(rest) - 1
    return aad, rest[1:]


@pytest.mark.parametrize(
    ("aad", "metadata", "composed", "length"),
    [
        pytest.param(AAD, METADATA, "0021" + AAD_HEX + "0d" + METADATA_HEX, 49, id="AAD and metadata"),
        pytest.param(AAD, b"", "0021" + AAD_HEX + "00", 36, id="AAD only"),
        pytest.param(b"", METADATA, "0000" + "0d" + METADATA_HEX, 16, id="metadata only"),
        pytest.param(b"", b"", "000000", 3, id="neither"),
    ],
)
def test_vector_aad_1(aad: bytes, metadata: bytes, composed: str, length: int) -> None:
    assert compose_aad(aad, metadata).hex() == composed
    assert len(compose_aad(aad, metadata)) == length


@pytest.mark.parametrize(
    ("iv", "aad", "metadata", "ciphertext", "tag"),
    [
        (IV_12, AAD, METADATA, "qNtNoLf/0yh1Cm1F", "Hlq5hSgZuRo2Qx7eEWUYfQ=="),
        (IV_12, b"", b"", "qNtNoLf/0yh1Cm1F", "KTHMR5Qu6RPqRJ7P68F5XA=="),
        (IV_16, AAD, METADATA, "LwnMGlbEHUfvk78I", "VXTIxe/VTTh8N8Swgf21qw=="),
        (IV_16, b"", b"", "LwnMGlbEHUfvk78I", "Yh+9B1PiHTGgMEShe1nUig=="),
    ],
)
def test_vector_gcm_1(iv: str, aad: bytes, metadata: bytes, ciphertext: str, tag: str) -> None:
    sealed = AESGCM(KEY).encrypt(base64.b64decode(iv), b"Hello World!", compose_aad(aad, metadata))

    assert sealed == base64.b64decode(ciphertext) + base64.b64decode(tag)


@given(aad=AADS, metadata=METADATAS)
@example(aad=b"a" * 8192, metadata=b"m" * 20)
@example(aad=b"a" * 255, metadata=b"")
@example(aad=b"a" * 256, metadata=b"")
@example(aad=b"a" * 65535, metadata=b"m" * 20)
def test_the_composed_form_can_be_split_into_both_parts_r_cdiv_2(aad: bytes, metadata: bytes) -> None:
    """It can be taken apart again, so two pairs never compose to the same bytes."""
    assert taken_apart(compose_aad(aad, metadata)) == (aad, metadata)


@pytest.mark.parametrize("encoding", AadEncoding)
@pytest.mark.parametrize(("aad", "metadata"), [(65536, 0), (65536, 20), (0, 21), (0, 256), (8192, 21)])
def test_what_the_lengths_cannot_hold_is_refused(aad: int, metadata: int, encoding: AadEncoding) -> None:
    with pytest.raises(ValueError, match="more than 65535 bytes"):
        compose_aad(b"a" * aad, b"m" * metadata, encoding)


@pytest.mark.parametrize(
    ("aad", "metadata", "composed"),
    [
        pytest.param(AAD, METADATA, "0021" + hashlib.sha256(AAD).hexdigest() + "0d" + METADATA_HEX, id="both"),
        pytest.param(AAD, b"", "0021" + hashlib.sha256(AAD).hexdigest() + "00", id="AAD only"),
        pytest.param(b"", METADATA, "0000" + hashlib.sha256(b"").hexdigest() + "0d" + METADATA_HEX, id="empty AAD"),
        pytest.param(None, METADATA, "0000" + "0d" + METADATA_HEX, id="metadata only"),
        pytest.param(None, b"", "000000", id="neither"),
        pytest.param(b"a" * 8192, b"", "2000" + hashlib.sha256(b"a" * 8192).hexdigest() + "00", id="long AAD"),
    ],
)
def test_sha256_has_the_digest_in_place_of_the_aad_whose_length_it_keeps(
    aad: bytes | None, metadata: bytes, composed: str
) -> None:
    assert compose_aad(aad, metadata, AadEncoding.SHA256).hex() == composed


@given(METADATAS)
def test_an_absent_aad_is_an_empty_one_in_plain_and_not_in_sha256_r_cdiv_3(metadata: bytes) -> None:
    assert compose_aad(None, metadata) == compose_aad(b"", metadata)
    assert compose_aad(None, metadata, AadEncoding.SHA256) != compose_aad(b"", metadata, AadEncoding.SHA256)


@given(one=PAIRS, other=PAIRS)
@example(one=(None, b""), other=(b"", b""))
@example(one=(b"", b"\0" * 20), other=(None, b"\0" * 20))
@example(one=(b"a", b"\0"), other=(b"a\0", b""))
def test_different_pairs_compose_to_different_bytes_in_sha256(
    one: tuple[bytes | None, bytes], other: tuple[bytes | None, bytes]
) -> None:
    assert (compose_aad(*one, AadEncoding.SHA256) == compose_aad(*other, AadEncoding.SHA256)) == (one == other)
