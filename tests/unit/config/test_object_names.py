"""Names of keys and tokens: labels, CKA_ID, serial numbers, and PKCS#11 URIs."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.model import Hsm
from xksproxy.config.object_names import ObjectName, id_from_hex
from xksproxy.config.pkcs11_uri import UriError, parse_uri
from xksproxy.config.token_names import TokenName

labels = st.none() | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
ids = st.none() | st.binary(min_size=1, max_size=20)
HSM = Hsm(id="a", module="/m.so", token="t")


@given(labels, ids)
def test_the_text_of_a_name_is_read_as_the_same_name(label: str | None, object_id: bytes | None) -> None:
    if label is None and object_id is None:
        return
    name = ObjectName(label, object_id)

    assert ObjectName.parse(str(name)) == name


@given(labels, ids, labels, ids)
def test_two_names_have_two_texts(
    label: str | None, object_id: bytes | None, other_label: str | None, other_id: bytes | None
) -> None:
    one, other = ObjectName(label, object_id), ObjectName(other_label, other_id)

    assert (str(one) == str(other)) == (one == other)


def test_a_label_alone_is_its_own_text_so_that_former_records_are_found() -> None:
    assert str(ObjectName("prod/payments; 2026?")) == "prod/payments; 2026?"


def test_a_label_that_looks_like_a_uri_stays_a_label() -> None:
    name = ObjectName("pkcs11:id=%01")

    assert str(name) == "pkcs11:object=pkcs11%3Aid%3D%2501"
    assert ObjectName.parse(str(name)) == name


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = ObjectName.parse("pkcs11:" + text)
    except UriError:
        return
    assert name.label or name.object_id
    assert ObjectName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("pkcs11:id=%0a%1B", ObjectName(None, b"\x0a\x1b")),
        ("pkcs11:object=my%20key;type=secret-key", ObjectName("my key")),
        ("pkcs11:type=secret-key;id=abc;object=k", ObjectName("k", b"abc")),
    ],
)
def test_uris_as_tools_print_them_are_read(uri: str, name: ObjectName) -> None:
    assert ObjectName.parse(uri) == name


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("pkcs11:", "names no key"),
        ("pkcs11:type=secret-key", "names no key"),
        ("pkcs11:object=", "object is empty"),
        ("pkcs11:id=", "id has 0 bytes"),
        ("pkcs11:id=" + "%00" * 257, "id has 257 bytes"),
        ("pkcs11:object=a;type=private", "type must be secret-key"),
        ("pkcs11:object=a;object=b", "object occurs twice"),
        ("pkcs11:object=%ff", "object is not UTF-8"),
        ("pkcs11:object=a b", "not of the form name=value"),
        ("pkcs11:object=a%2", "not of the form name=value"),
        ("pkcs11:object=a;", "an empty attribute is not of the form"),
        ("pkcs11:token=t;object=a", "token is not supported here: hsms of the key store"),
        ("pkcs11:object=a?pin-value=1234", "pin and the rest have settings of their own"),
        ("pkcs11:colour=red", "expected id, object, type"),
    ],
)
def test_a_uri_that_names_no_key_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(UriError, match=reason):
        ObjectName.parse(uri)


def test_no_part_of_a_pin_in_a_uri_is_repeated() -> None:
    with pytest.raises(UriError) as refused:
        ObjectName.parse("pkcs11:object=a?pin-value=58320")

    assert "58320" not in str(refused.value)


@given(st.dictionaries(st.sampled_from(["object", "id", "type"]), st.binary(max_size=8)))
def test_each_value_that_is_percent_encoded_is_decoded(values: dict[str, bytes]) -> None:
    uri = "pkcs11:" + ";".join(f"{name}={''.join(f'%{byte:02x}' for byte in value)}" for name, value in values.items())

    assert parse_uri(uri, frozenset({"object", "id", "type"}), {}) == values


@pytest.mark.parametrize("text", ["0a1b", "0A:1B"])
def test_an_id_is_read_from_hexadecimal(text: str) -> None:
    assert id_from_hex(text) == b"\x0a\x1b"


@pytest.mark.parametrize("text", ["", ":", "0", "0x0a", "xyz", "0a 1b", "00" * 257])
def test_what_is_not_hexadecimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected CKA_ID in hexadecimal"):
        id_from_hex(text)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, TokenName("t")),
        ({"serial": "12"}, TokenName("t", "12")),
        ({"token": None, "serial": "12"}, TokenName(None, "12")),
        (
            {"token": None, "uri": "pkcs11:model=m;manufacturer=a%20b;token=t;serial=s;slot-id=7"},
            TokenName("t", "s", "a b", "m", 7),
        ),
    ],
)
def test_a_token_is_named_by_label_serial_or_uri(settings: dict[str, str | None], name: TokenName) -> None:
    assert TokenName.of_settings(msgspec.structs.replace(HSM, **settings)) == name


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"token": None}, "set token"),
        ({"uri": "pkcs11:token=t"}, "uri goes without token and serial"),
        ({"token": None, "uri": "pkcs11:"}, "it names no token"),
        ({"token": None, "uri": "pkcs11:slot-id=x"}, "slot-id is not a number"),
        ({"token": None, "uri": "pkcs11:token=t;object=k"}, "object is not supported here: it names a key"),
        ({"token": None, "uri": "token=t"}, "starts with pkcs11:"),
    ],
)
def test_a_token_without_a_usable_name_is_refused(settings: dict[str, str | None], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TokenName.of_settings(msgspec.structs.replace(HSM, **settings))


@pytest.mark.parametrize("field", ["label", "serial", "manufacturer", "model"])
def test_a_token_fits_only_if_each_attribute_does(field: str) -> None:
    token = {"label": "t", "serial": "s", "manufacturer": "a", "model": "m"}
    name = TokenName("t", "s", "a", "m", 7)

    assert name.fits(**token, slot_id=7)
    assert not name.fits(**{**token, field: "x"}, slot_id=7)
    assert not name.fits(**token, slot_id=8)
