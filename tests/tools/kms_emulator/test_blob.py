"""The formats of ciphertext blobs and of authenticated data."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from xksproxy_tools.kms_emulator.blob import MAXIMUM_BLOB_BYTES, Blob, Header, authenticated_data, pack, unpack
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_material import KeyMaterial, KeyMaterialMismatch, join, split
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

HEADER = Header("arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab", "d6f1a2b3")
SEALED = Sealed(b"ciphertext", b"v1", b"i" * 12, b"t" * 16)

headers = st.builds(Header, st.text(min_size=1, max_size=90), st.text(min_size=1, max_size=30))
sealed = st.builds(
    Sealed,
    st.binary(max_size=300),
    st.sampled_from([None, b""]) | st.binary(min_size=1, max_size=20),
    st.binary(min_size=12, max_size=12) | st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
)
blobs = st.builds(Blob, headers, sealed)
few = settings(max_examples=30)
contexts = st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=5)


@few
@given(blobs)
def test_a_blob_is_read_as_it_was_written(blob: Blob) -> None:
    data = pack(blob)

    assert unpack(data) == blob
    assert len(data) <= MAXIMUM_BLOB_BYTES


@few
@given(blobs, st.data())
def test_no_part_of_a_blob_is_a_blob(blob: Blob, data: st.DataObject) -> None:
    whole = pack(blob)
    end = data.draw(st.integers(0, len(whole) - 1))

    for part in (whole[:end], whole + b"\0"):
        with pytest.raises(KmsError) as raised:
            unpack(part)
        assert raised.value.name == "InvalidCiphertextException"


@few
@given(st.binary(max_size=300))
def test_any_other_data_is_refused(data: bytes) -> None:
    for text in (data, pack(Blob(HEADER, SEALED))[:4] + data):
        try:
            blob = unpack(text)
        except KmsError as error:
            assert error.name == "InvalidCiphertextException"  # noqa: PT017 - it may as well be a blob
        else:
            assert pack(blob) == text


@few
@given(blobs, st.data())
def test_a_changed_blob_is_refused_or_is_another_blob(blob: Blob, data: st.DataObject) -> None:
    """A blob has only one form."""
    whole = bytearray(pack(blob))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))

    try:
        other = unpack(bytes(whole))
    except KmsError:
        return
    assert other != blob
    assert pack(other) == bytes(whole)


def test_the_largest_plaintext_fits() -> None:
    """4096 bytes, encrypted twice, with all that a proxy may add."""
    inner = join(KeyMaterial.generate().encrypt(bytes(4096), b""))
    blob = Blob(HEADER, Sealed(inner, b"m" * 20, b"i" * 16, b"t" * 16))

    assert len(inner) <= 4300
    assert unpack(pack(blob)) == blob


@pytest.mark.parametrize(
    "part",
    [
        Sealed(bytes(6144), None, b"i" * 12, b"t" * 16),
        Sealed(bytes(70_000), None, b"i" * 12, b"t" * 16),
        Sealed(b"c", b"m" * 21, b"i" * 12, b"t" * 16),
        Sealed(b"c", b"m" * 255, b"i" * 12, b"t" * 16),
        Sealed(b"c", None, b"i" * 13, b"t" * 16),
        Sealed(b"c", None, b"i" * 12, b"t" * 12),
    ],
)
def test_sizes_that_decrypt_would_refuse_are_not_packed(part: Sealed) -> None:
    with pytest.raises(ValueError, match="ciphertext blob"):
        pack(Blob(HEADER, part))


# --- Authenticated data


@few
@given(contexts, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(context: dict[str, str], order: random.Random) -> None:
    pairs = list(context.items())
    order.shuffle(pairs)

    assert authenticated_data(HEADER, dict(pairs)) == authenticated_data(HEADER, context)


@few
@given(headers, contexts, headers, contexts)
def test_no_two_contexts_or_headers_have_the_same_form(
    header: Header, context: dict[str, str], other_header: Header, other_context: dict[str, str]
) -> None:
    assume((header, context) != (other_header, other_context))

    assert authenticated_data(header, context) != authenticated_data(other_header, other_context)


@pytest.mark.parametrize(
    ("one", "other"),
    [({"ab": "c"}, {"a": "bc"}), ({"a": "b", "c": "d"}, {"a": "bcd"}), ({"é": "1"}, {"e\u0301": "1"})],
)
def test_similar_contexts_have_different_forms(one: dict[str, str], other: dict[str, str]) -> None:
    assert authenticated_data(HEADER, one) != authenticated_data(HEADER, other)


def test_authenticated_data_have_at_most_8192_bytes() -> None:
    """R-ENC-2."""
    empty = len(authenticated_data(HEADER, {"": ""}))
    fits = {"": "x" * (8192 - empty)}

    assert len(authenticated_data(HEADER, fits)) == 8192
    with pytest.raises(KmsError, match="8193 bytes; expected at most 8192") as raised:
        authenticated_data(HEADER, {"": fits[""] + "x"})
    assert raised.value.name == "ValidationException"


@pytest.mark.parametrize(
    "context", [{"x" * 70_000: ""}, {str(n): "" for n in range(70_000)}, {"\ud800": ""}, {"": "\udfff"}]
)
def test_a_context_that_cannot_be_encoded_is_refused(context: dict[str, str]) -> None:
    with pytest.raises(KmsError) as raised:
        authenticated_data(HEADER, context)

    assert raised.value.name == "ValidationException"


# --- Key material


@few
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_key_material_decrypts_only_its_own_ciphertext_with_the_same_aad(plaintext: bytes, aad: bytes) -> None:
    material = KeyMaterial.generate()
    sealed = material.encrypt(plaintext, aad)

    assert material.decrypt(split(join(sealed)), aad) == plaintext
    assert len(join(sealed)) == len(plaintext) + 28
    assert material.encrypt(plaintext, aad).iv != sealed.iv
    for other, changed_aad in ((KeyMaterial.generate(), aad), (material, aad + b"x")):
        with pytest.raises(KeyMaterialMismatch):
            other.decrypt(sealed, changed_aad)


@pytest.mark.parametrize("length", [0, 1, 27])
def test_an_inner_layer_that_is_too_short_is_refused(length: int) -> None:
    with pytest.raises(KeyMaterialMismatch):
        split(bytes(length))


def test_the_repr_hides_key_material() -> None:
    material = KeyMaterial(b"0123456789abcdef0123456789abcdef")

    assert "0123" not in repr(material)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_key_material_is_of_256_bits(length: int) -> None:
    with pytest.raises(ValueError, match="expected 32"):
        KeyMaterial(bytes(length))
