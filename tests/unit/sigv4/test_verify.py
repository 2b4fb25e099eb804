"""Requirements R-AUTH-1, -2, -7 to -11 and -13, with botocore's signer as an oracle that shares no code with ours."""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs
from unit.sigv4.botocore_oracle import (
    CREDENTIALS,
    REGIONS,
    Signed,
    signed_by_botocore,
    signed_requests,
)

from xksproxy.sigv4.canonical import HttpRequest, canonical_request, sign_string, string_to_sign
from xksproxy.sigv4.keyring import Credential, Keyring
from xksproxy.sigv4.verify import Identity, SignedAtAnotherTime, verify
from xksproxy.spec.errors import AuthenticationFailedException

CREDENTIAL = Credential("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")
REGION = "us-east-1"
NOW = int(datetime(2024, 5, 15, 12, 0, 0, tzinfo=UTC).timestamp())
PATH = "/example/uri/path/prefix/kms/xks/v1/health"
BODY = b'{"requestMetadata":{"kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsOperation":"KmsHealthCheck"}}'
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=BETWEEN2TENAND3TENCHARACTERS/20240515/us-east-1/kms-xks-proxy/aws4_request,"
    " SignedHeaders=host;x-amz-date,"
    " Signature=293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4"
)
SIGNED_BY_KMS = {  # vector SIG-1
    "host": ["xks.example.com"],
    "x-amz-date": ["20240515T120000Z"],
    "content-type": ["application/json"],
    "authorization": [AUTHORIZATION],
}
GOOD = HttpRequest("POST", PATH, SIGNED_BY_KMS, BODY)


def signed(**changes: object) -> Signed:
    """A request signed by botocore, near vector SIG-1."""
    arguments = {"url": f"https://xks.example.com{PATH}", "body": BODY, "now": NOW, "headers": ()}
    return signed_by_botocore(CREDENTIAL, REGION, **(arguments | changes))  # type: ignore[arg-type]


def signed_by_hand(
    *,
    secret: str = CREDENTIAL.secret_access_key,
    access_key_id: str = CREDENTIAL.access_key_id,
    timestamp: str = "20240515T120000Z",
    scope: str = "20240515/us-east-1/kms-xks-proxy/aws4_request",
    names: tuple[str, ...] = ("host", "x-amz-date"),
    more: dict[str, list[str]] | None = None,
) -> HttpRequest:
    """A request whose signature is right for what the arguments say, so that only the rule under test can refuse it.

    botocore cannot be made to sign such requests. The scope is any text, and a name that is signed but not sent
    counts as empty.
    """
    headers = {"host": ["xks.example.com"], "x-amz-date": [timestamp], **(more or {})}
    body_sha256 = hashlib.sha256(BODY).hexdigest()
    signed_as = {name: headers.get(name, [""]) for name in names}
    canonical = canonical_request(HttpRequest("POST", PATH, signed_as, BODY), names, body_sha256)
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = bytes.fromhex(sign_string(key, part))
    signature = sign_string(key, string_to_sign(timestamp, scope, canonical))  # type: ignore[arg-type]
    credential = f"Credential={access_key_id}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return HttpRequest("POST", PATH, headers | {"authorization": [authorization]}, BODY)


def refusal(request: HttpRequest, keyring: Keyring | None = None, now: float = NOW) -> AuthenticationFailedException:
    """The error that a request is refused with."""
    with pytest.raises(AuthenticationFailedException) as caught:
        verify(request, keyring or Keyring([CREDENTIAL]), now)
    return caught.value


def with_header(request: HttpRequest, name: str, *values: str) -> HttpRequest:
    """The request with other lines of a header; without it, if there are none."""
    others = {other: lines for other, lines in request.headers.items() if other != name}
    return structs.replace(request, headers=others | ({name: values} if values else {}))


def with_authorization(request: HttpRequest, old: str, new: str) -> HttpRequest:
    """The request with one place of its Authorization header replaced."""
    [value] = request.headers["authorization"]
    assert value.count(old) == 1
    return with_header(request, "authorization", value.replace(old, new))


# What is signed as it should be is accepted.


@given(request=signed_requests(), shuffle=st.randoms(use_true_random=False))
def test_what_botocore_signs_is_accepted_whatever_the_case_order_and_blanks_of_its_headers_r_auth_1(
    request: Signed, shuffle: random.Random
) -> None:
    names = sorted({name.lower() for name, _ in request.lines})
    shuffle.shuffle(names)
    lines = [
        (
            shuffle.choice([name.lower(), name.upper(), name.title()]),
            value if name == "Authorization" else " \t" + re.sub(" +", "   ", value) + "  ",
        )
        for wanted in names
        for name, value in request.lines
        if name.lower() == wanted
    ]

    for sent in (request.lines, lines, [*lines, ("X-Amzn-Trace-Id", "Root=1-2-3")]):
        identity = verify(replace(request, lines=sent).request, request.keyring, request.now)
        assert (identity.access_key_id, identity.region) == (request.credential.access_key_id, request.region)


def test_vector_sig_1_as_kms_signs_it_is_accepted() -> None:
    assert verify(GOOD, Keyring([CREDENTIAL]), NOW) == Identity(CREDENTIAL.access_key_id, REGION, 0.0)


def test_vector_sig_1_with_content_type_signed_is_accepted_r_auth_8() -> None:
    request = with_authorization(GOOD, "SignedHeaders=host", "SignedHeaders=content-type;host")
    request = with_authorization(
        request,
        "293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4",
        "e596c1d1e0b4f61cc8561f0bd70c480890d5caa55115d60c888a56126874c89c",
    )

    assert verify(request, Keyring([CREDENTIAL]), NOW)


def test_signed_headers_are_taken_in_the_order_of_the_header_and_not_sorted_r_auth_8() -> None:
    assert verify(signed_by_hand(names=("x-amz-date", "host")), Keyring([CREDENTIAL]), NOW)


def test_authority_of_http_2_may_replace_host_q_9() -> None:
    request = signed_by_hand(names=(":authority", "x-amz-date"), more={":authority": ["xks.example.com"]})

    assert verify(request, Keyring([CREDENTIAL]), NOW)


def test_bytes_of_a_signed_header_that_are_not_utf_8_are_hashed_unchanged() -> None:
    latin_1 = b"M\xfcller"
    text = latin_1.decode("utf-8", "surrogateescape")  # as the server reads headers
    canonical = b"POST\n%b\n\nhost:h\nx-amz-date:20240515T120000Z\nx-name:%b\n\nhost;x-amz-date;x-name\n%b" % (
        PATH.encode(),
        latin_1,
        hashlib.sha256(BODY).hexdigest().encode(),
    )
    scope = "20240515/us-east-1/kms-xks-proxy/aws4_request"
    text_to_sign = f"AWS4-HMAC-SHA256\n20240515T120000Z\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
    key = bytes.fromhex("22385e39980120a0de60e70adc17cb8663ef1879bcee973ee86791e0a5de4e5e")  # of vector SIG-1
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={CREDENTIAL.access_key_id}/{scope},"
        f" SignedHeaders=host;x-amz-date;x-name, Signature={sign_string(key, text_to_sign)}"
    )
    headers = {"host": ["h"], "x-amz-date": ["20240515T120000Z"], "x-name": [text], "authorization": [authorization]}

    assert verify(HttpRequest("POST", PATH, headers, BODY), Keyring([CREDENTIAL]), NOW)


# Any change after signing is refused.


@given(request=signed_requests(), data=st.data())
def test_any_change_of_what_is_signed_is_refused(request: Signed, data: st.DataObject) -> None:
    path, body, names = request.path, request.body, request.signed_names
    at, character = data.draw(st.integers(0, len(path) - 1)), data.draw(st.sampled_from("aB0-_/?%"))
    assume(character != path[at])
    name = data.draw(st.sampled_from(names))
    values = request.request.headers[name]
    changed = data.draw(st.integers(0, len(values) - 1))
    more = values[changed] + data.draw(st.sampled_from(["x", " x", ",", "\u00e9"]))
    bit = data.draw(st.integers(0, 7))
    rest = ";".join(other for other in names if other != name)

    for altered in (
        replace(request, path=path[:at] + character + path[at + 1 :]).request,
        replace(request, body=body + b"x").request,
        replace(request, body=bytes([body[0] ^ 1 << bit]) + body[1:] if body else b"\0").request,
        structs.replace(request.request, method=data.draw(st.sampled_from(["GET", "PUT", "post"]))),
        request.with_header(name, [*values[:changed], more, *values[changed + 1 :]]),
        request.with_header(name, [*values, values[-1]]),
        request.with_header(name, []),
        request.with_authorization(lambda header: header.replace(";".join(names), rest)),
    ):
        assert refusal(altered, request.keyring, request.now)


@given(
    request=signed_requests(),
    place=st.integers(0, 63),
    digit=st.sampled_from("0123456789abcdef"),
    region=REGIONS,
    other=CREDENTIALS,
)
def test_another_signature_region_credential_or_secret_is_refused_r_auth_2(
    request: Signed, place: int, digit: str, region: str, other: Credential
) -> None:
    own = request.credential
    at = len(request.authorization) - 64 + place
    assume(digit != request.authorization[at] and region != request.region)
    assume(other.access_key_id != own.access_key_id and other.secret_access_key != own.secret_access_key)
    both, wrong = Keyring([own, other]), Keyring([Credential(own.access_key_id, other.secret_access_key)])

    for altered, keyring in (
        (request.with_authorization(lambda header: header[:at] + digit + header[at + 1 :]), both),
        (request.with_authorization(lambda header: header.replace(f"/{request.region}/", f"/{region}/")), both),
        (request.with_authorization(lambda header: header.replace(own.access_key_id, other.access_key_id)), both),
        (request.request, wrong),
    ):
        assert refusal(altered, keyring, request.now).detail.startswith("the signature does not match")


@given(request=signed_requests(), seconds=st.integers(-86400, 86400))
def test_another_date_in_the_headers_is_refused_even_if_it_is_recent(request: Signed, seconds: int) -> None:
    """R-AUTH-9: nobody can make a recorded request recent again."""
    assume(seconds)
    old = request.request.headers["x-amz-date"][0]
    new = datetime.fromtimestamp(request.now + seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
    lines = [
        (name, new if name.lower() == "x-amz-date" else value.replace(f"/{old[:8]}/", f"/{new[:8]}/"))
        for name, value in request.lines
    ]

    error = refusal(replace(request, lines=lines).request, request.keyring, request.now + seconds)

    assert error.detail.startswith("the signature does not match")


def test_lines_of_a_repeated_signed_header_must_keep_their_order() -> None:
    request = signed(headers=[("X-Many", "first"), ("X-Many", "second")])
    assert verify(request.request, request.keyring, NOW)

    assert refusal(request.with_header("x-many", ["second", "first"])).detail.startswith("the signature does not match")


# The request must be recent.


@pytest.mark.parametrize("seconds", [-300, -299.9, 0, 299.9, 300])
def test_five_minutes_of_clock_skew_are_accepted_both_ways_r_auth_10(seconds: float) -> None:
    assert verify(GOOD, Keyring([CREDENTIAL]), NOW + seconds)


@pytest.mark.parametrize("seconds", [-86400, -301, -300.001, 300.001, 301, 86400])
def test_more_than_five_minutes_of_clock_skew_are_refused_both_ways_r_auth_10(seconds: float) -> None:
    assert "proxy's clock" in refusal(GOOD, now=NOW + seconds).detail


@pytest.mark.parametrize("seconds", [-10_800, 10_800])
def test_a_wrong_time_as_the_only_fault_has_its_own_error_and_the_common_response(seconds: float) -> None:
    stale = refusal(GOOD, now=NOW + seconds)
    forged = refusal(with_authorization(GOOD, "Signature=", "Signature=0"), now=NOW + seconds)

    assert isinstance(stale, SignedAtAnotherTime)
    assert stale.clock_offset == seconds
    assert not isinstance(forged, SignedAtAnotherTime)
    assert not isinstance(refusal(GOOD, Keyring([]), now=NOW + seconds), SignedAtAnotherTime)
    assert (stale.name, stale.message, stale.http_status) == (forged.name, forged.message, forged.http_status)


def test_the_identity_has_the_difference_of_the_clocks() -> None:
    assert verify(GOOD, Keyring([CREDENTIAL]), NOW + 120.5).clock_offset == 120.5


def test_the_detail_has_the_difference_of_the_clocks_with_its_sign() -> None:
    assert "+301 s" in refusal(GOOD, now=NOW + 301).detail
    assert "-301 s" in refusal(GOOD, now=NOW - 301).detail


def test_five_minutes_reach_over_midnight_r_auth_10() -> None:
    midnight = int(datetime(2024, 5, 16, tzinfo=UTC).timestamp())
    request = signed(now=midnight - 1)

    assert verify(request.request, request.keyring, midnight + 299)


@pytest.mark.parametrize(
    "timestamp",
    [
        "20240515T120060Z",
        "20240515T126000Z",
        "20240515T250000Z",
        "20240230T120000Z",
        "20241301T000000Z",
        "00000000T000000Z",
    ],
)
def test_a_well_formed_time_that_does_not_exist_is_refused(timestamp: str) -> None:
    scope = f"{timestamp[:8]}/us-east-1/kms-xks-proxy/aws4_request"

    assert refusal(signed_by_hand(timestamp=timestamp, scope=scope)).detail == "x-amz-date is not a valid date and time"


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "20240515T120000",
        "20240515T120000z",
        "20240515T120000Z+01:00",
        "2024-05-15T12:00:00Z",
        "Wed, 15 May 2024 12:00:00 GMT",
        "\u0662\u0660\u0662\u0664\u0660\u0665\u0661\u0665T120000Z",
        "20240515T120000Z\xa0",
        "\x0c20240515T120000Z",
    ],
)
def test_x_amz_date_of_another_form_is_refused(timestamp: str) -> None:
    assert refusal(signed_by_hand(timestamp=timestamp)).detail == "x-amz-date is not of the form YYYYMMDDTHHMMSSZ"


def test_a_date_header_does_not_replace_x_amz_date_r_auth_8() -> None:
    request = with_header(GOOD, "x-amz-date")
    request = with_header(request, "date", "Wed, 15 May 2024 12:00:00 GMT")

    assert refusal(request).detail == "expected one x-amz-date header, got 0"


def test_two_x_amz_date_headers_are_refused() -> None:
    request = with_header(GOOD, "x-amz-date", "20240515T120000Z", "20240515T120000Z")

    assert refusal(request).detail == "expected one x-amz-date header, got 2"


# The credential scope.


@pytest.mark.parametrize("date", ["20240514", "20240516", "20230515"])
def test_the_date_of_the_scope_must_be_that_of_x_amz_date_r_auth_13(date: str) -> None:
    error = refusal(signed_by_hand(scope=f"{date}/us-east-1/kms-xks-proxy/aws4_request"))

    assert error.detail == "the date of the credential scope is not that of x-amz-date"


# The list of signed headers.


@pytest.mark.parametrize("names", [("x-amz-date",), ("host",), ("content-type",), ("content-type", "x-amz-date")])
def test_host_and_x_amz_date_must_be_signed_r_auth_13(names: tuple[str, ...]) -> None:
    request = signed_by_hand(names=names, more={"content-type": ["application/json"]})

    assert refusal(request).detail == "host and x-amz-date must be signed"


def test_a_signed_header_that_was_never_sent_is_refused_even_if_signed_as_empty() -> None:
    request = signed_by_hand(names=("host", "x-absent", "x-amz-date"))

    assert refusal(request).detail == "signed headers missing from the request: x-absent"


# The Authorization header.


def test_no_authorization_header_is_refused_r_auth_2() -> None:
    assert refusal(with_header(GOOD, "authorization")).detail == "expected one authorization header, got 0"


def test_two_authorization_headers_are_refused_even_if_both_are_right() -> None:
    [value] = GOOD.headers["authorization"]

    error = refusal(with_header(GOOD, "authorization", value, value))

    assert error.detail == "expected one authorization header, got 2"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(str.upper, id="upper case"),
        pytest.param(lambda signature: signature[:-1], id="short"),
        pytest.param(lambda signature: signature[1:], id="short at the front"),
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda signature: signature + "0", id="long"),
        pytest.param(lambda signature: signature[:-1] + "g", id="not hexadecimal"),
        pytest.param(lambda signature: "0x" + signature[2:], id="with 0x"),
    ],
)
def test_a_signature_of_another_form_is_refused(change: Callable[[str], str]) -> None:
    signature = "293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4"

    error = refusal(with_authorization(GOOD, signature, change(signature)))

    assert error.detail == "the signature is not 64 lower-case hexadecimal digits"


# The hash of the body.


def test_x_amz_content_sha256_that_is_right_is_accepted() -> None:
    request = signed(headers=[("X-Amz-Content-SHA256", hashlib.sha256(BODY).hexdigest())])

    assert verify(request.request, request.keyring, NOW)


@pytest.mark.parametrize(
    "claimed",
    [
        "UNSIGNED-PAYLOAD",
        "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "",
        hashlib.sha256(b"another").hexdigest(),
        hashlib.sha256(BODY).hexdigest().upper(),
    ],
)
def test_x_amz_content_sha256_that_is_not_the_hash_of_the_body_is_refused_although_signed(claimed: str) -> None:
    request = signed(headers=[("X-Amz-Content-SHA256", claimed)])

    assert refusal(request.request).detail == "x-amz-content-sha256 is not the hash of the body"


def test_of_several_x_amz_content_sha256_each_must_be_right() -> None:
    right = hashlib.sha256(BODY).hexdigest()

    assert refusal(with_header(GOOD, "x-amz-content-sha256", right, "UNSIGNED-PAYLOAD"))


def test_another_body_is_refused_with_unsigned_payload() -> None:
    """botocore signs the claim in place of the hash; another body must not pass under it."""
    request = signed(headers=[("X-Amz-Content-SHA256", "UNSIGNED-PAYLOAD")])

    assert refusal(replace(request, body=b"{}").request)


# Several credentials, other key stores, unknown ids.


@given(credentials=st.lists(CREDENTIALS, min_size=2, max_size=4, unique_by=lambda pair: pair.access_key_id))
def test_each_of_several_credentials_verifies_r_auth_11(credentials: list[Credential]) -> None:
    keyring = Keyring(credentials)

    for credential in credentials:
        request = signed_by_botocore(credential, REGION, url="https://h.example/kms/xks/v1/health", body=b"", now=NOW)
        assert verify(request.request, keyring, NOW).access_key_id == credential.access_key_id


def test_only_a_right_signature_of_the_right_time_lets_the_keys_of_its_scope_be_kept() -> None:
    keyring = Keyring([CREDENTIAL])
    refusal(signed_by_hand(secret="x" * 43), keyring)
    refusal(GOOD, keyring, now=NOW + 3600)
    assert not keyring._cache

    assert verify(GOOD, keyring, NOW)
    assert len(keyring._cache) == 1


def test_a_credential_of_another_key_store_is_refused_r_auth_13() -> None:
    other = Credential("OTHERSTOREOTHERSTORE", "t" * 43)
    assert verify(GOOD, Keyring([CREDENTIAL]), NOW)

    assert refusal(GOOD, Keyring([other])).detail == f"unknown access key id {CREDENTIAL.access_key_id}"


def test_an_unknown_access_key_id_never_verifies_even_when_signed_with_the_dummy_secret() -> None:
    keyring = Keyring([CREDENTIAL])
    request = signed_by_hand(access_key_id="UNKNOWNUNKNOWNUNKNOWN", secret=keyring._dummy_secret)

    assert refusal(request, keyring).detail.startswith("unknown access key id")


def test_an_unknown_access_key_id_is_refused_for_its_other_faults_first_as_a_known_one_is() -> None:
    faults = [
        {"scope": "20240514/us-east-1/kms-xks-proxy/aws4_request"},
        {"names": ("host",)},
        {"more": {"x-amz-content-sha256": ["UNSIGNED-PAYLOAD"]}},
        {"timestamp": "20240515T121000X"},
    ]
    for fault in faults:
        known = refusal(signed_by_hand(**fault))  # type: ignore[arg-type]
        unknown = refusal(signed_by_hand(**fault, access_key_id="UNKNOWNUNKNOWNUNKNOWN"))  # type: ignore[arg-type]
        assert unknown.detail == known.detail
        assert "access key id" not in known.detail


def test_an_unknown_access_key_id_has_its_signature_computed_like_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-AUTH-13: the same work in the same order. We count calls, since time cannot be tested."""
    calls = []

    def counted(key: bytes, text: str) -> str:
        calls.append(text)
        return sign_string(key, text)

    monkeypatch.setattr("xksproxy.sigv4.verify.sign_string", counted)
    refusal(with_authorization(GOOD, "Credential=B", "Credential=UNKNOWN"))
    refusal(with_authorization(GOOD, "Signature=2", "Signature=3"))

    assert len(calls) == 2
    assert calls[0] == calls[1]


# What a refusal shows.

CAUSES = {
    "no authorization": with_header(GOOD, "authorization"),
    "other algorithm": with_header(GOOD, "authorization", "Basic dXNlcjpwYXNz"),
    "elements missing": with_authorization(GOOD, "SignedHeaders=", "Signed="),
    "unknown id": with_authorization(GOOD, "Credential=B", "Credential=UNKNOWN"),
    "illegal id": with_authorization(GOOD, "Credential=B", "Credential=-"),
    "wrong signature": with_authorization(GOOD, "Signature=2", "Signature=3"),
    "short signature": with_authorization(GOOD, "Signature=29", "Signature="),
    "wrong service": signed_by_hand(scope="20240515/us-east-1/s3/aws4_request"),
    "other scope date": signed_by_hand(scope="20240514/us-east-1/kms-xks-proxy/aws4_request"),
    "stale": signed_by_hand(timestamp="20240515T115459Z"),
    "malformed time": signed_by_hand(timestamp="now"),
    "host not signed": signed_by_hand(names=("x-amz-date",)),
    "header missing": signed_by_hand(names=("host", "x-absent", "x-amz-date")),
    "wrong body hash": with_header(GOOD, "x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
}


def test_the_reply_is_the_same_for_every_cause_and_the_detail_for_none_r_auth_13() -> None:
    errors = [refusal(request) for request in CAUSES.values()]

    assert len({(error.name, error.http_status, error.message, str(error)) for error in errors}) == 1
    assert len({error.detail for error in errors}) == len(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_refusal_holds_neither_secret_nor_signing_key_nor_the_right_signature_r_auth_7(cause: str) -> None:
    keyring = Keyring([CREDENTIAL])
    assert verify(GOOD, keyring, NOW)
    error = refusal(CAUSES[cause], keyring)
    told = f"{error} {error!r} {error.message} {error.detail} {error.args} {vars(error)} {error.__cause__}"
    scope_keys = [key.hex() for keys, dummy in keyring._cache.values() for key in (*keys.values(), dummy)]

    for secret in (CREDENTIAL.secret_access_key, keyring._dummy_secret, *scope_keys, "93b23efd7ebb3d4f"):
        assert secret not in told
