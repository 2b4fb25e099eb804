"""The client half of SigV4 against the verifying half, against botocore and against vector SIG-1."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sigv4.botocore_oracle import BODIES, CREDENTIALS, PATHS, REGIONS, TIMES, on_the_wire, signed_by_botocore

from xksproxy.sigv4.canonical import HttpRequest, group_headers
from xksproxy.sigv4.keyring import Credential, Keyring
from xksproxy.sigv4.sign import signed_headers
from xksproxy.sigv4.verify import verify

CREDENTIAL = Credential("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")
PATH = "/example/uri/path/prefix/kms/xks/v1/health"
BODY = b'{"requestMetadata":{"kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsOperation":"KmsHealthCheck"}}'
NOON = datetime(2024, 5, 15, 12, 0, 0, tzinfo=UTC).timestamp()
HOSTS = st.sampled_from(["xks.example.com", "localhost", "10.0.0.1", "xks.example.com:8443", "localhost:65535"])
CALLS = st.fixed_dictionaries(
    {"credential": CREDENTIALS, "region": REGIONS, "host": HOSTS, "path": PATHS, "body": BODIES}
)


@pytest.mark.parametrize("now", [NOON, NOON + 0.999])
def test_the_headers_are_those_of_vector_sig_1_r_auth_8(now: float) -> None:
    headers = signed_headers(CREDENTIAL, "us-east-1", host="xks.example.com", path=PATH, body=BODY, now=now)

    assert headers == {
        "Host": "xks.example.com",
        "X-Amz-Date": "20240515T120000Z",
        "Content-Type": "application/json",
        "Authorization": "AWS4-HMAC-SHA256"
        " Credential=BETWEEN2TENAND3TENCHARACTERS/20240515/us-east-1/kms-xks-proxy/aws4_request,"
        " SignedHeaders=host;x-amz-date,"
        " Signature=293b23efd7ebb3d4f55cd7f19d39a5811e32b734232472cdefb45edb435b52a4",
    }


@given(call=CALLS, now=TIMES)
def test_the_authorization_header_is_that_of_botocore(call: dict[str, Any], now: int) -> None:
    url = f"https://{call['host']}{call['path']}"
    theirs = signed_by_botocore(call["credential"], call["region"], url=url, body=call["body"], now=now)

    ours = signed_headers(**call, now=now)

    assert theirs.signed_names == ["host", "x-amz-date"]
    assert ours["Authorization"] == theirs.authorization
    assert ours["X-Amz-Date"] == dict(theirs.lines)["X-Amz-Date"]


@pytest.fixture
def _far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock shows another day than UTC."""
    monkeypatch.setenv("TZ", "FAR-14")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_far_from_utc")
def test_dates_are_in_utc_wherever_the_machine_stands() -> None:
    headers = signed_headers(CREDENTIAL, "us-east-1", host="xks.example.com", path=PATH, body=BODY, now=NOON)
    assert time.localtime(NOON).tm_mday == 16

    assert headers["X-Amz-Date"] == "20240515T120000Z"
    assert verify(
        HttpRequest("POST", PATH, group_headers(on_the_wire(headers.items())), BODY), Keyring([CREDENTIAL]), NOON
    )
