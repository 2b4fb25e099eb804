"""Steps 1 to 3 of SigV4 against vector SIG-1 and against botocore."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.sigv4.authorization import CredentialScope
from xksproxy.sigv4.canonical import (
    HttpRequest,
    canonical_request,
    derive_signing_key,
    group_headers,
    sign_string,
    string_to_sign,
)

SECRET = "PleaseReplaceThisWithSomeSecretOfLength43To64"
SCOPE = CredentialScope("20240515", "us-east-1")
TIMESTAMP = "20240515T120000Z"
BODY = b'{"requestMetadata":{"kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsOperation":"KmsHealthCheck"}}'
BODY_SHA256 = "eb8474661176cc50dbf85b19fc3faa770b108791b72c832cfa2520360377436c"
REQUEST = HttpRequest(
    "POST",
    "/example/uri/path/prefix/kms/xks/v1/health",
    {"host": ["xks.example.com"], "x-amz-date": [TIMESTAMP], "content-type": ["application/json"]},
    BODY,
)


def canonical(values: list[str]) -> str:
    """The canonical value of a header that came with these values."""
    text = canonical_request(HttpRequest("POST", "/", {"x": values}, b""), ["x"], "")
    return text.split("\n")[3].removeprefix("x:")


@pytest.mark.parametrize(
    ("names", "sha256", "signature"),
    [
        (
            ("host", "x-amz-date"),
            "f9d0ac3b567b3b2cf67d32a8cd0c256619e25b1fcb4a75b829de094b29b776e7",
            "293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4",
        ),
        (
            ("content-type", "host", "x-amz-date"),
            "0bf4a62cfa4de75ebff35bcefd28a122088d11f4848754c0f834b933df0e24af",
            "e596c1d1e0b4f61cc8561f0bd70c480890d5caa55115d60c888a56126874c89c",
        ),
    ],
)
def test_the_hashes_and_signatures_of_vector_sig_1(names: tuple[str, ...], sha256: str, signature: str) -> None:
    text = canonical_request(REQUEST, names, hashlib.sha256(BODY).hexdigest())
    to_sign = string_to_sign(TIMESTAMP, SCOPE, text)

    assert hashlib.sha256(text.encode()).hexdigest() == sha256
    assert to_sign == (f"AWS4-HMAC-SHA256\n20240515T120000Z\n20240515/us-east-1/kms-xks-proxy/aws4_request\n{sha256}")
    assert sign_string(derive_signing_key(SECRET, SCOPE), to_sign) == signature


@pytest.mark.parametrize(
    ("value", "expected"),
    [("  a  ", "a"), ("a  b", "a b"), ("a \t  b\tc", "a \t b\tc"), ("\t", ""), ("", ""), ('"a  b"', '"a b"')],
)
def test_outer_blanks_vanish_and_inner_runs_become_one_space(value: str, expected: str) -> None:
    assert canonical([value]) == expected


@pytest.mark.parametrize("other", ["\xa0", "\x85", "\x1c", "\x0b", "\u2003", "\u3000"])
def test_only_spaces_and_tabs_vanish_at_the_ends(other: str) -> None:
    assert canonical([f" \t{other}a{other}\t "]) == f"{other}a{other}"


@pytest.mark.parametrize("other", ["\t", "\xa0", "\x85", "\x1c", "\x0b", "\u2003", "\u3000"])
def test_only_u_0020_is_folded(other: str) -> None:
    value = f"a{other}{other}b"
    assert canonical([f" {value} "]) == value


def test_the_values_of_a_repeated_header_are_joined_by_commas_in_their_order() -> None:
    assert canonical([" b ", "a", "", "c,d"]) == "b,a,,c,d"


def test_a_signed_header_that_is_not_in_the_request_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="x-absent"):
        canonical_request(REQUEST, ("host", "x-absent"), BODY_SHA256)


@given(st.binary(max_size=40))
def test_the_canonical_request_is_hashed_as_the_bytes_that_were_received(received: bytes) -> None:
    text = received.decode("utf-8", "surrogateescape")

    assert string_to_sign(TIMESTAMP, SCOPE, text).endswith(hashlib.sha256(received).hexdigest())


def test_headers_are_grouped_by_lower_case_name_and_keep_their_order() -> None:
    lines = [(b"X-Many", b"1"), (b"Host", b"h"), (b"x-many", b"2"), (b"X-MANY", b" 3 ")]

    assert group_headers(lines) == {"x-many": ["1", "2", " 3 "], "host": ["h"]}
