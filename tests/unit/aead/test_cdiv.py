"""The ciphertext data integrity value (R-CDIV-5), vectors CDIV-1 and GCM-1."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.aead.cdiv import integrity_value

AAD = b"project=nile,department=marketing"
METADATA = b"key_version=1"
IV = bytes.fromhex("1ccae5470f39700254779031")
CIPHERTEXT = bytes.fromhex("821c642b5b71783367deaf18")
TAG = bytes.fromhex("bc1c4dda7707d6812447c5955e99b261")
PARTS = ("aad", "ciphertext_metadata", "iv", "ciphertext", "tag")


@pytest.mark.parametrize(
    ("aad", "metadata", "expected"),
    [
        pytest.param(AAD, METADATA, "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=", id="AAD and metadata"),
        pytest.param(AAD, b"", "sfzVyqMSmPSlnuu/M6CwNFYXimXz2W4PMyBUSdQSdik=", id="no metadata"),
        pytest.param(b"", METADATA, "/8quo8SOq/feAGEk9fFJvvAQtv1Bw9XYvN3UwSZBfHU=", id="no AAD"),
        pytest.param(b"", b"", "PnRjBnS2gFgyL7kyBENKntOEPdD6yboMwXYlFVgoQ9M=", id="neither"),
    ],
)
def test_vector_cdiv_1(aad: bytes, metadata: bytes, expected: str) -> None:
    value = integrity_value(aad=aad, ciphertext_metadata=metadata, iv=IV, ciphertext=CIPHERTEXT, tag=TAG)

    assert base64.b64encode(value).decode() == expected


@given(st.fixed_dictionaries({part: st.binary(max_size=40) for part in PARTS}))
def test_the_parts_are_hashed_in_their_order_without_lengths(parts: dict[str, bytes]) -> None:
    assert integrity_value(**parts) == hashlib.sha256(b"".join(parts[name] for name in PARTS)).digest()
