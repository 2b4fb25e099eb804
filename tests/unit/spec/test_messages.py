"""Requests are decoded strictly, responses encoded as the API and its test client want them."""

import base64
import copy
import json
import re
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.spec.errors import ValidationException
from xksproxy.spec.messages import (
    DecryptRequest,
    DecryptResponse,
    EkmInstance,
    EncryptRequest,
    EncryptResponse,
    ErrorResponse,
    GetHealthStatusRequest,
    GetHealthStatusResponse,
    GetKeyMetadataRequest,
    GetKeyMetadataResponse,
    decode,
    encode,
)

Message = Any  # one of the four request classes; decode's own type knows them one by one
Json = dict[str, Any]

PRINCIPAL = "arn:aws:iam::123456789012:user/Alice"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:/key/1234abcd-12ab-34cd-56ef-1234567890ab"  # malformed as AWS's own
COMMON = {"kmsOperation": "Encrypt", "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae"}
CRYPTO = {**COMMON, "awsPrincipalArn": PRINCIPAL, "kmsKeyArn": KEY_ARN}

MINIMAL: dict[Message, Json] = {
    GetHealthStatusRequest: {"requestMetadata": COMMON},
    GetKeyMetadataRequest: {"requestMetadata": {**COMMON, "awsPrincipalArn": PRINCIPAL}},
    EncryptRequest: {"requestMetadata": CRYPTO, "plaintext": "SGVsbG8gV29ybGQh", "encryptionAlgorithm": "AES_GCM"},
    DecryptRequest: {
        "requestMetadata": CRYPTO,
        "ciphertext": "ghxkK1txeDNn3q8Y",
        "encryptionAlgorithm": "AES_GCM",
        "initializationVector": "HMrlRw85cAJUd5Ax",
        "authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==",
    },
}
"""The least that each operation takes."""

VIA = ["awsSourceVpc", "awsSourceVpce", "kmsViaService"]
OPTIONAL: dict[Message, list[tuple[str, ...]]] = {
    GetHealthStatusRequest: [],
    GetKeyMetadataRequest: [("requestMetadata", name) for name in (*VIA, "kmsKeyArn")],
    EncryptRequest: [
        *(("requestMetadata", name) for name in VIA),
        ("additionalAuthenticatedData",),
        ("ciphertextDataIntegrityValueAlgorithm",),
    ],
    DecryptRequest: [
        *(("requestMetadata", name) for name in VIA),
        ("additionalAuthenticatedData",),
        ("ciphertextMetadata",),
    ],
}
BASE64 = {
    EncryptRequest: ["plaintext", "additionalAuthenticatedData"],
    DecryptRequest: [
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "additionalAuthenticatedData",
        "ciphertextMetadata",
    ],
}
BASE64_FIELDS = [(message, name) for message, names in BASE64.items() for name in names]


def paths(value: Json, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where the members of a message stand."""
    return [
        path
        for name, member in value.items()
        for path in ((*above, name), *(paths(member, (*above, name)) if isinstance(member, dict) else ()))
    ]


def named(message: Message, path: tuple[str, ...]) -> Any:
    """A member as a parameter of a test."""
    return pytest.param(message, path, id=f"{message.__name__} {'.'.join(path)}")


REQUIRED = [named(message, path) for message, value in MINIMAL.items() for path in paths(value)]
ALL_OPTIONAL = [named(message, path) for message, found in OPTIONAL.items() for path in found]


def changed(message: Message, path: tuple[str, ...], value: object) -> Json:
    """The minimal request with one member set."""
    body = copy.deepcopy(MINIMAL[message])
    *above, name = path
    place = body
    for step in above:
        place = place[step]
    place[name] = value
    return body


def without(message: Message, path: tuple[str, ...]) -> Json:
    """The minimal request with one member missing."""
    body = changed(message, path, None)
    *above, name = path
    place = body
    for step in above:
        place = place[step]
    del place[name]
    return body


def read(message: Message, body: Json) -> Any:
    return decode(message, json.dumps(body).encode())


def refusal(message: Message, body: Json | bytes) -> str:
    """What the refusal of a body says."""
    with pytest.raises(ValidationException) as caught:
        decode(message, body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.message


def snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda match: f"_{match[0].lower()}", name)


def member(request: object, path: tuple[str, ...]) -> object:
    for name in path:
        request = getattr(request, snake_case(name))
    return request


# Which members there must and may be.


@pytest.mark.parametrize("message", MINIMAL)
def test_the_required_members_are_enough(message: Message) -> None:
    request = read(message, MINIMAL[message])

    assert request.request_metadata.kms_request_id == "4112f4d6-db54-4af4-ae30-c55a22a8dfae"
    assert all(member(request, path) is None for path in OPTIONAL[message])


@pytest.mark.parametrize(("message", "path"), REQUIRED)
def test_a_missing_required_member_is_refused_by_name_r_req_2(message: Message, path: tuple[str, ...]) -> None:
    assert f"`{path[-1]}`" in refusal(message, without(message, path))


@pytest.mark.parametrize(("message", "path"), REQUIRED)
def test_null_for_a_required_member_is_refused(message: Message, path: tuple[str, ...]) -> None:
    assert f"`$.{'.'.join(path)}`" in refusal(message, changed(message, path, None))


@pytest.mark.parametrize("value", [1, 1.5, True, [], ["SGVsbG8gV29ybGQh"], {}], ids=str)
@pytest.mark.parametrize(("message", "path"), REQUIRED + ALL_OPTIONAL)
def test_a_member_of_another_type_is_refused_by_name(message: Message, path: tuple[str, ...], value: object) -> None:
    if path == ("requestMetadata",) and value == {}:
        value = "an object is right here, a string is not"

    assert f"`$.{'.'.join(path)}`" in refusal(message, changed(message, path, value))


@pytest.mark.parametrize(("message", "path"), ALL_OPTIONAL)
def test_null_for_an_optional_member_counts_as_absent(message: Message, path: tuple[str, ...]) -> None:
    assert member(read(message, changed(message, path, None)), path) is None


@pytest.mark.parametrize(("message", "path"), ALL_OPTIONAL)
def test_an_optional_member_is_read_where_it_is_there(message: Message, path: tuple[str, ...]) -> None:
    assert member(read(message, changed(message, path, "AAEC")), path) in {"AAEC", b"\x00\x01\x02"}


@pytest.mark.parametrize("value", [1, None, {"deep": [{"er": "x"}]}, "text", True, 1e300])
@pytest.mark.parametrize("place", [(), ("requestMetadata",)])
@pytest.mark.parametrize("message", MINIMAL)
def test_unknown_members_are_accepted_at_every_level_r_req_7(
    message: Message, place: tuple[str, ...], value: object
) -> None:
    body = changed(message, (*place, "kmsRecipientAttestationImageSha384"), value)

    assert read(message, body) == read(message, MINIMAL[message])


# What requestMetadata may hold.


@pytest.mark.parametrize("length", [0, 1, 2048])
@pytest.mark.parametrize("name", ["awsPrincipalArn", "kmsKeyArn"])
@pytest.mark.parametrize("message", [GetKeyMetadataRequest, EncryptRequest, DecryptRequest])
def test_arns_of_any_length_up_to_2048_are_accepted_r_req_3(message: Message, name: str, length: int) -> None:
    arn = ("arn:aws:iam::123456789012:user/" + "x" * 2048)[:length]

    assert member(read(message, changed(message, ("requestMetadata", name), arn)), ("requestMetadata", name)) == arn


@pytest.mark.parametrize("operation", ["CreateKey", "SomethingNew", "", "\u00e4\u20ac\U0001f511"])
@pytest.mark.parametrize("message", MINIMAL)
def test_an_unlisted_kms_operation_is_accepted_r_req_4(message: Message, operation: str) -> None:
    request = read(message, changed(message, ("requestMetadata", "kmsOperation"), operation))

    assert request.request_metadata.kms_operation == operation


@pytest.mark.parametrize("name", ["kmsRequestId", "kmsOperation"])
@pytest.mark.parametrize("message", MINIMAL)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_strings_are_opaque_r_req_5(message: Message, name: str, text: str) -> None:
    path = ("requestMetadata", name)

    assert member(read(message, changed(message, path, text)), path) == text


def test_the_algorithms_are_not_checked_here_q_4() -> None:
    body = MINIMAL[EncryptRequest] | {"encryptionAlgorithm": "X", "ciphertextDataIntegrityValueAlgorithm": "Y"}
    request = decode(EncryptRequest, json.dumps(body).encode())

    assert (request.encryption_algorithm, request.ciphertext_data_integrity_value_algorithm) == ("X", "Y")


# Base64.


@pytest.mark.parametrize("size", [0, 1, 4300, 8192, 8193])
@pytest.mark.parametrize(("message", "name"), BASE64_FIELDS)
def test_sizes_are_not_checked_here_q_3(message: Message, name: str, size: int) -> None:
    """Neither are those the API gives: beyond them the answer is another error."""
    request = read(message, changed(message, (name,), base64.b64encode(b"x" * size).decode()))

    assert member(request, (name,)) == b"x" * size


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("SGVsbG8gV29ybGQ", id="padding missing"),
        pytest.param("QQ", id="both pads missing"),
        pytest.param("QQ===", id="a pad too many"),
        pytest.param("====", id="pads alone"),
        pytest.param("QQ==QQ==", id="padding inside"),
        pytest.param("-_-_", id="URL-safe alphabet"),
        pytest.param("QUJD\n", id="newline at the end"),
        pytest.param("QUJD\r\nREVG", id="MIME line break"),
        pytest.param(" QUJD", id="blank in front"),
        pytest.param("QUJ\u0000", id="NUL"),
        pytest.param("QUJ\u00e4", id="umlaut"),
        pytest.param("\uff31\uff35\uff2a\uff24", id="full-width letters"),
        pytest.param("data:text/plain;base64,QUJD", id="data URL"),
    ],
)
@pytest.mark.parametrize(("message", "name"), BASE64_FIELDS)
def test_other_than_padded_standard_base64_is_refused_by_name_r_req_8(message: Message, name: str, text: str) -> None:
    told = refusal(message, changed(message, (name,), text))

    assert told == f"The request body does not fit the API: Invalid base64 encoded string - at `$.{name}`"


PADDED_BASE64 = re.compile("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@given(st.text("AQg7+/=-_ \n", max_size=12) | st.from_regex(PADDED_BASE64, fullmatch=True))
def test_base64_is_accepted_only_in_the_form_of_rfc_4648_section_4_r_req_8(text: str) -> None:
    body = changed(EncryptRequest, ("plaintext",), text)

    if PADDED_BASE64.fullmatch(text):
        assert read(EncryptRequest, body).plaintext == base64.b64decode(text)
    else:
        assert refusal(EncryptRequest, body)


@pytest.mark.parametrize(("message", "name"), BASE64_FIELDS)
def test_the_text_null_is_base64_and_not_null(message: Message, name: str) -> None:
    assert member(read(message, changed(message, (name,), "null")), (name,)) == b"\x9e\xe9\x65"


def test_base64_may_be_escaped_as_any_json_string() -> None:
    body = json.dumps(MINIMAL[EncryptRequest]).replace("SGVsbG8gV29ybGQh", r"\/\/\/\/\u0051UJD").encode()

    assert decode(EncryptRequest, body).plaintext == b"\xff\xff\xffABC"


# Bodies that are no JSON object.


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"[{}]", id="array of an object"),
        pytest.param(b'"text"', id="string"),
        pytest.param(b"1", id="number"),
        pytest.param(b"{", id="truncated"),
        pytest.param(b"plaintext=QUJD", id="form"),
        pytest.param(b"\x00", id="NUL"),
        pytest.param(b"\xff\xfe", id="no UTF-8"),
    ],
)
@pytest.mark.parametrize("message", MINIMAL)
def test_a_body_that_is_no_json_object_is_refused(message: Message, body: bytes) -> None:
    assert refusal(message, body)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a BOM in front": lambda body: b"\xef\xbb\xbf" + body,
    "garbage in front": lambda body: b")]}'" + body,
    "garbage at the end": lambda body: body + b"x",
    "a NUL at the end": lambda body: body + b"\x00",
    "a second object": lambda body: body + body,
    "a byte missing at the end": lambda body: body[:-1],
    "UTF-16": lambda body: body.decode().encode("utf-16"),
    "a comma too many": lambda body: body[:-1] + b",}",
    "a comment": lambda body: b"/* x */" + body,
    "single quotes": lambda body: body.replace(b'"', b"'"),
    "NaN": lambda body: body[:-1] + b', "x": NaN}',
    "invalid UTF-8": lambda body: body.replace(b"4112f4d6", b"4112f4\xff6"),
    "invalid UTF-8 in a member that nobody knows": lambda body: body[:-1] + b', "x": "\xff"}',
    "invalid UTF-8 in metadata that nobody knows": lambda body: body.replace(b'adata": {', b'adata": {"x": "\xff", '),
    "an overlong form of UTF-8": lambda body: body.replace(b"4112f4d6", b"\xc0\xaf"),
    "a surrogate in UTF-8": lambda body: body.replace(b"4112f4d6", b"\xed\xa0\x80"),
    "an escaped lone surrogate": lambda body: body.replace(b"4112f4d6", b"\\ud800"),
    "an unknown escape": lambda body: body.replace(b"4112f4d6", b"\\q"),
    "a raw newline in a string": lambda body: body.replace(b"4112f4d6", b"\n"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("message", MINIMAL)
def test_a_body_with_damage_is_refused(message: Message, damage: str) -> None:
    whole = json.dumps(MINIMAL[message]).encode()
    damaged = DAMAGE[damage](whole)
    assert damaged != whole

    assert refusal(message, damaged)


@pytest.mark.parametrize("message", MINIMAL)
def test_blanks_around_and_inside_the_body_do_not_matter(message: Message) -> None:
    """The test client sends several lines."""
    body = b"\r\n\t " + json.dumps(MINIMAL[message], indent=4).encode() + b"\n"

    assert decode(message, body) == read(message, MINIMAL[message])


@pytest.mark.parametrize("opening", [b"[", b'{"x":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("place", [b"%b", b'{"unknown": %b', b'{"requestMetadata": {"unknown": %b'])
@pytest.mark.parametrize("message", MINIMAL)
def test_deep_nesting_is_refused_and_does_no_harm(message: Message, place: bytes, opening: bytes) -> None:
    depth = 65536 // len(opening)  # what fits into the largest body that is read

    assert refusal(message, place % (opening * depth))


@pytest.mark.parametrize("message", MINIMAL)
@given(
    body=st.binary(max_size=50)
    | st.text('{}[]",:\\unl0e- \ud800', max_size=30).map(lambda t: t.encode("utf-8", "replace"))
)
def test_no_body_is_an_error_of_another_kind(message: Message, body: bytes) -> None:
    assert refusal(message, body)


# What a refusal tells.

MARKERS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=40).map(lambda text: f"MARK{text}")


@given(marker=MARKERS, fault=st.sampled_from(["no Base64", "truncated", "unknown escape", "type", "missing"]))
def test_a_refusal_never_quotes_the_plaintext_r_enc_11(marker: str, fault: str) -> None:
    body = changed(EncryptRequest, ("plaintext",), marker + "=" * (-len(marker) % 4))
    text = json.dumps(body)
    match fault:
        case "no Base64":
            text = text.replace(marker, marker + "!")
        case "truncated":
            text = text[: text.index(marker) + len(marker)]
        case "unknown escape":
            text = text.replace(marker, marker + "\\q")
        case "type":
            text = text.replace(f'"{body["plaintext"]}"', json.dumps([marker]))
        case _:
            text = text.replace("encryptionAlgorithm", "encryption")

    with pytest.raises(ValidationException) as caught:
        decode(EncryptRequest, text.encode())

    told = f"{caught.value} {caught.value.message} {caught.value.detail} {caught.value!r} {caught.value.__cause__}"
    assert "MARK" not in told
    assert marker not in told


@pytest.mark.parametrize(("message", "path"), REQUIRED + ALL_OPTIONAL)
@given(marker=MARKERS)
def test_a_refusal_never_quotes_a_value_of_the_wrong_type(message: Message, path: tuple[str, ...], marker: str) -> None:
    assert marker not in refusal(message, changed(message, path, [marker]))


@given(marker=MARKERS)
def test_a_refusal_never_quotes_the_name_of_an_unknown_member(marker: str) -> None:
    body = changed(EncryptRequest, ("requestMetadata", marker), marker)
    del body["plaintext"]

    assert marker not in refusal(EncryptRequest, body)


@pytest.mark.parametrize("text", ["Hello World!", "SGVsbG8gV29ybGQh"])
def test_the_plaintext_does_not_show_in_a_repr_r_enc_11_r_dec_6(text: str) -> None:
    request = read(EncryptRequest, MINIMAL[EncryptRequest])
    response = DecryptResponse(plaintext=b"Hello World!")

    assert text not in f"{request!r} {request} {[request]} {response!r} {response} {[response]}"


# Responses.


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (
            GetHealthStatusResponse(
                xks_proxy_fleet_size=2,
                xks_proxy_vendor="Acme",
                xks_proxy_model="Acme XKS 1",
                ekm_vendor="SoftHSM",
                ekm_fleet_details=[EkmInstance(id="a", model="m", health_status="ACTIVE")],
            ),
            (
                b'{"xksProxyFleetSize":2,"xksProxyVendor":"Acme","xksProxyModel":"Acme XKS 1","ekmVendor":"SoftHSM",'
                b'"ekmFleetDetails":[{"id":"a","model":"m","healthStatus":"ACTIVE"}]}'
            ),
        ),
        (
            GetKeyMetadataResponse(key_spec="AES_256", key_usage=["ENCRYPT", "DECRYPT"], key_status="ENABLED"),
            b'{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}',
        ),
        (
            EncryptResponse(
                authentication_tag=bytes.fromhex("bc1c4dda7707d6812447c5955e99b261"),
                ciphertext=bytes.fromhex("821c642b5b71783367deaf18"),
                initialization_vector=bytes.fromhex("1ccae5470f39700254779031"),
                ciphertext_metadata=b"key_version=1",
                ciphertext_data_integrity_value=b"\xff\xef",
            ),
            (
                b'{"authenticationTag":"vBxN2ncH1oEkR8WVXpmyYQ==","ciphertext":"ghxkK1txeDNn3q8Y",'
                b'"initializationVector":"HMrlRw85cAJUd5Ax","ciphertextMetadata":"a2V5X3ZlcnNpb249MQ==",'
                b'"ciphertextDataIntegrityValue":"/+8="}'
            ),
        ),
        (DecryptResponse(plaintext=b"Hello World!"), b'{"plaintext":"SGVsbG8gV29ybGQh"}'),
        (DecryptResponse(plaintext=b""), b'{"plaintext":""}'),
        (
            ErrorResponse(error_name="ValidationException", error_message="why"),
            b'{"errorName":"ValidationException","errorMessage":"why"}',
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_response_has_the_members_of_the_api_on_one_line(response: Any, expected: bytes) -> None:
    assert encode(response) == expected


def test_metadata_and_integrity_value_are_left_out_where_there_are_none_r_enc_8_r_enc_9() -> None:
    response = EncryptResponse(authentication_tag=b"t", ciphertext=b"c", initialization_vector=b"i")

    assert json.loads(encode(response)).keys() == {"authenticationTag", "ciphertext", "initializationVector"}


@pytest.mark.parametrize("name", ["ciphertext_metadata", "ciphertext_data_integrity_value"])
def test_metadata_and_integrity_value_come_one_without_the_other(name: str) -> None:
    response = EncryptResponse(authentication_tag=b"t", ciphertext=b"c", initialization_vector=b"i", **{name: b"x"})

    assert len(json.loads(encode(response))) == 4


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_response_is_one_line_of_json_whatever_it_says_r_req_1(text: str) -> None:
    encoded = encode(ErrorResponse(error_name="InternalException", error_message=text))

    assert b"\n" not in encoded
    assert b"\r" not in encoded
    assert encoded.startswith(b'{"errorName":"InternalException","errorMessage":"')
    assert json.loads(encoded) == {"errorName": "InternalException", "errorMessage": text}
