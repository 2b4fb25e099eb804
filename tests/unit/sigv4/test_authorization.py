"""The form of the Authorization header (R-AUTH-2, R-AUTH-13, and the header of section 3)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sigv4.botocore_oracle import CREDENTIALS, REGIONS

from xksproxy.sigv4.authorization import (
    Authorization,
    CredentialScope,
    MalformedAuthorization,
    parse_authorization,
)
from xksproxy.sigv4.keyring import Credential

SIGNATURE = "293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4"
CREDENTIAL = "Credential=BETWEEN2TENAND3TENCHARACTERS/20240515/us-east-1/kms-xks-proxy/aws4_request"
SIGNED_HEADERS = "SignedHeaders=host;x-amz-date"
HEADER = f"AWS4-HMAC-SHA256 {CREDENTIAL}, {SIGNED_HEADERS}, Signature={SIGNATURE}"
PARSED = Authorization(
    "BETWEEN2TENAND3TENCHARACTERS", CredentialScope("20240515", "us-east-1"), ("host", "x-amz-date"), SIGNATURE
)
NAMES = st.from_regex(r"[!#$%&'*+.^_`|~0-9a-z-]{1,20}", fullmatch=True) | st.just(":authority")


@given(
    credential=CREDENTIALS,
    date=st.from_regex(r"[0-9]{8}", fullmatch=True),
    region=REGIONS,
    names=st.lists(NAMES, min_size=1, max_size=5, unique=True),
    signature=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
def test_every_legal_header_is_parsed_into_its_parts(
    credential: Credential, date: str, region: str, names: list[str], signature: str
) -> None:
    scope = CredentialScope(date, region)
    header = (
        f"AWS4-HMAC-SHA256 Credential={credential.access_key_id}/{scope},"
        f" SignedHeaders={';'.join(names)}, Signature={signature}"
    )

    assert parse_authorization(header) == Authorization(credential.access_key_id, scope, tuple(names), signature)


def test_headers_that_differ_in_the_signature_alone_have_each_its_own() -> None:
    other = "0123456789abcdef" * 4

    for signature in (SIGNATURE, other, SIGNATURE):
        assert parse_authorization(HEADER.replace(SIGNATURE, signature)).signature == signature


def test_a_scope_reads_as_in_the_string_to_sign() -> None:
    assert str(CredentialScope("20240515", "us-east-1")) == "20240515/us-east-1/kms-xks-proxy/aws4_request"


@pytest.mark.parametrize("separator", [",", ", ", " , ", ",\t"])
def test_blanks_around_the_commas_do_not_matter(separator: str) -> None:
    header = separator.join((f"AWS4-HMAC-SHA256 {CREDENTIAL}", SIGNED_HEADERS, f"Signature={SIGNATURE}"))

    assert parse_authorization(header) == PARSED


@pytest.mark.parametrize("elements", [*itertools.permutations((CREDENTIAL, SIGNED_HEADERS, f"Signature={SIGNATURE}"))])
def test_the_order_of_the_elements_does_not_matter(elements: tuple[str, str, str]) -> None:
    assert parse_authorization(f"AWS4-HMAC-SHA256 {', '.join(elements)}") == PARSED


@pytest.mark.parametrize(
    "algorithm", ["", "AWS4-HMAC-SHA1", "aws4-hmac-sha256", "AWS4-HMAC-SHA256,", "AWS4-ECDSA-P256-SHA256", "Basic"]
)
def test_another_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(MalformedAuthorization, match="the algorithm is not AWS4-HMAC-SHA256"):
        parse_authorization(HEADER.replace("AWS4-HMAC-SHA256", algorithm))


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param("", id="none"),
        pytest.param(f"{SIGNED_HEADERS}, Signature={SIGNATURE}", id="no Credential"),
        pytest.param(f"{CREDENTIAL}, Signature={SIGNATURE}", id="no SignedHeaders"),
        pytest.param(f"{CREDENTIAL}, {SIGNED_HEADERS}", id="no Signature"),
        pytest.param(f"{CREDENTIAL}, {CREDENTIAL}, {SIGNED_HEADERS}, Signature={SIGNATURE}", id="Credential twice"),
        pytest.param(
            f"{CREDENTIAL}, {SIGNED_HEADERS}, {SIGNED_HEADERS}, Signature={SIGNATURE}", id="SignedHeaders twice"
        ),
        pytest.param(
            f"{CREDENTIAL}, {SIGNED_HEADERS}, Signature={SIGNATURE}, Signature={SIGNATURE}", id="Signature twice"
        ),
        pytest.param(f"{CREDENTIAL}, {SIGNED_HEADERS}, Signature={SIGNATURE}, Extra=1", id="one more"),
        pytest.param(f"{CREDENTIAL}, {SIGNED_HEADERS}, Signature={SIGNATURE},", id="comma at the end"),
        pytest.param(f"{CREDENTIAL} {SIGNED_HEADERS} Signature={SIGNATURE}", id="no commas"),
        pytest.param(f"{CREDENTIAL}, {SIGNED_HEADERS}, signature={SIGNATURE}", id="element in lower case"),
    ],
)
def test_each_element_must_be_there_once_and_none_else(elements: str) -> None:
    with pytest.raises(MalformedAuthorization, match="each once"):
        parse_authorization(f"AWS4-HMAC-SHA256 {elements}")


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "ID",
        "ID/20240515/us-east-1/kms-xks-proxy",
        "ID/20240515/us-east-1/kms-xks-proxy/aws4_request/",
        "ID//20240515/us-east-1/kms-xks-proxy/aws4_request",
    ],
)
def test_a_credential_of_other_than_five_parts_is_refused(credential: str) -> None:
    with pytest.raises(MalformedAuthorization, match="expected Credential="):
        parse_authorization(HEADER.replace(CREDENTIAL, f"Credential={credential}"))


@pytest.mark.parametrize("access_key_id", ["", "A" * 129, "A-B", "A B", "A\u00c4", "A\n", "A=B", "'OR'1"])
def test_an_access_key_id_not_of_1_to_128_letters_and_digits_is_refused(access_key_id: str) -> None:
    with pytest.raises(MalformedAuthorization, match="access key id"):
        parse_authorization(HEADER.replace("BETWEEN2TENAND3TENCHARACTERS", access_key_id))


@pytest.mark.parametrize("access_key_id", ["A", "a1890", "A" * 128])
def test_an_access_key_id_outside_of_r_auth_3_is_well_formed_here_q_8(access_key_id: str) -> None:
    """It is merely unknown: the rules for ids bind where credentials are made."""
    header = HEADER.replace("BETWEEN2TENAND3TENCHARACTERS", access_key_id)

    assert parse_authorization(header).access_key_id == access_key_id


@pytest.mark.parametrize(
    "date", ["", "2024515", "202405150", "2024-05-15", "2024O515", "\u0662\u0660240515", "20240515\n"]
)
def test_a_date_that_is_not_of_eight_ascii_digits_is_refused(date: str) -> None:
    with pytest.raises(MalformedAuthorization, match="date and region"):
        parse_authorization(HEADER.replace("20240515", date))


@pytest.mark.parametrize("region", ["", "US-EAST-1", "us_east_1", "us east", "r" * 65, "us-east-1\n", "\u00fcs-east-1"])
def test_a_region_of_another_form_is_refused(region: str) -> None:
    with pytest.raises(MalformedAuthorization, match="date and region"):
        parse_authorization(HEADER.replace("us-east-1", region))


def test_the_longest_region_is_accepted() -> None:
    assert parse_authorization(HEADER.replace("us-east-1", "r" * 64)).scope.region == "r" * 64


@pytest.mark.parametrize("service", ["", "kms", "s3", "KMS-XKS-PROXY", "kms-xks-proxy ", "kms-xks-proxy2"])
def test_another_service_is_refused_r_auth_13(service: str) -> None:
    with pytest.raises(MalformedAuthorization, match="does not end in kms-xks-proxy/aws4_request"):
        parse_authorization(HEADER.replace("kms-xks-proxy", service))


@pytest.mark.parametrize("terminator", ["", "aws4", "AWS4_REQUEST", "aws4_request_", "aws4-request"])
def test_another_terminator_is_refused_r_auth_13(terminator: str) -> None:
    with pytest.raises(MalformedAuthorization, match="does not end in kms-xks-proxy/aws4_request"):
        parse_authorization(HEADER.replace("aws4_request", terminator))


@pytest.mark.parametrize(
    "names",
    [
        "",
        ";",
        "host;",
        ";host",
        "host;;x-amz-date",
        "host;host",
        "Host;x-amz-date",
        "host; x-amz-date",
        "host:x-amz-date",
        "host;:method",
        "host;x amz date",
        "host;\u00e4",
    ],
)
def test_signed_headers_must_be_distinct_lower_case_header_names(names: str) -> None:
    with pytest.raises(MalformedAuthorization, match="distinct lower-case header names"):
        parse_authorization(HEADER.replace("host;x-amz-date", names))


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: f"AWS4-HMAC-SHA256 {text}"))
def test_any_other_text_is_refused_and_never_an_error_of_another_kind(text: str) -> None:
    with pytest.raises(MalformedAuthorization):
        parse_authorization(text)


@given(data=st.data())
def test_no_change_of_a_character_is_an_error_of_another_kind(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(HEADER) - 1))
    changed = HEADER[:at] + data.draw(st.characters()) + HEADER[at + 1 :]

    try:
        parsed = parse_authorization(changed)
    except MalformedAuthorization as error:
        text = str(error)
        assert text.isascii()
        assert text.isprintable()
    else:
        assert (parsed == PARSED) == (changed == HEADER) or changed[at].isspace()


@given(st.text("ABC0123456789 abc/=", min_size=1, max_size=40))
def test_the_text_of_the_error_does_not_repeat_the_header(text: str) -> None:
    """It ends up in the log, where a caller must not be able to write."""
    told = set()
    for header in (f"MARK{text}", f"AWS4-HMAC-SHA256 MARK{text}", HEADER.replace("2024", f"MARK{text}")):
        with pytest.raises(MalformedAuthorization) as caught:
            parse_authorization(header)
        told.add(str(caught.value))

    assert not any("MARK" in message for message in told)
