"""The endpoint over HTTP."""

import io
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from emulator_support import ACCOUNT, KMS_MODEL, REGION, Harness
from xksproxy_tools.kms_emulator.endpoint import Endpoint
from xksproxy_tools.kms_emulator.protocol.caller import Callers
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential=alice/20261125/{REGION}/kms/aws4_request, SignedHeaders=host, Signature=0"


class Http:
    """Requests to the endpoint, as an SDK makes them."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def post(self, operation: str, body: bytes = b"{}", **changes: str) -> tuple[int, dict[str, Any], Any]:
        headers = {"X-Amz-Target": f"TrentService.{operation}", "Authorization": AUTHORIZATION, **changes}
        async with self._client.post("/", data=io.BytesIO(body), headers=headers) as answer:
            content = await answer.read()
            assert answer.headers["Content-Type"] == "application/x-amz-json-1.1"
            return answer.status, json.loads(content or b"{}"), answer.headers


@pytest_asyncio.fixture
async def http(kms: Harness) -> AsyncIterator[Http]:
    endpoint = Endpoint(KMS_MODEL, Callers(REGION, ACCOUNT), kms.emulator.operations, kms.emulator.expiry)
    async with TestClient(TestServer(endpoint.application())) as client:
        yield Http(client)


async def test_an_answer_is_json_with_a_request_id(http: Http) -> None:
    status, answer, headers = await http.post("CreateKey", b'{"Description": "d"}')

    assert status == 200
    assert answer["KeyMetadata"]["Description"] == "d"
    assert isinstance(answer["KeyMetadata"]["CreationDate"], float)
    assert len(headers["x-amzn-RequestId"]) == 36


async def test_the_request_id_is_the_one_that_the_proxy_gets(kms: Harness, http: Http) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()
    body = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "k"}

    _, _, headers = await http.post("CreateKey", json.dumps(body).encode())

    assert kms.proxy.calls[0][2].kms_request_id == headers["x-amzn-RequestId"]


async def test_an_error_has_a_type_and_a_message(http: Http) -> None:
    status, answer, headers = await http.post("DescribeKey", b'{"KeyId": "no-key"}')

    assert (status, answer) == (400, {"__type": "NotFoundException", "message": "Invalid keyId 'no-key'"})
    assert headers["x-amzn-RequestId"]


@pytest.mark.parametrize(
    ("operation", "body", "headers", "name"),
    [
        ("ListKeys", b'{"Limit": 0}', {}, "ValidationException"),
        ("ListKeys", b"x" * (1024 * 1024 + 1), {}, "SerializationException"),
        ("DropTables", b"{}", {}, "UnknownOperationException"),
        ("ListKeys", b"{}", {"X-Amz-Target": "ListKeys"}, "UnknownOperationException"),
        ("ListKeys", b"{}", {"X-Amz-Target": "DynamoDB_20120810.ListTables"}, "UnknownOperationException"),
        ("ListKeys", b"{}", {"Authorization": ""}, "MissingAuthenticationTokenException"),
        ("ListKeys", b"{}", {"Authorization": AUTHORIZATION.replace(REGION, "us-east-1")}, "InvalidSignatureException"),
    ],
)
async def test_an_invalid_request_is_refused(
    http: Http, operation: str, body: bytes, headers: dict[str, str], name: str
) -> None:
    status, answer, _ = await http.post(operation, body, **headers)

    assert (status, answer["__type"]) == (400, name)


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/kms"), ("OPTIONS", "/")])
async def test_other_methods_and_paths_are_refused(http: Http, method: str, path: str) -> None:
    headers = {"X-Amz-Target": "TrentService.ListKeys", "Authorization": AUTHORIZATION}

    async with http._client.request(method, path, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["__type"] == "UnknownOperationException"


async def test_an_unexpected_exception_is_an_internal_error_without_details(
    kms: Harness, http: Http, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("what went wrong")

    monkeypatch.setattr(kms.emulator.operations, "execute", fail)

    status, answer, headers = await http.post("ListKeys")

    assert (status, answer["__type"]) == (500, "KMSInternalException")
    assert "what went wrong" not in answer["message"]
    (line,) = caplog.records
    assert line.fields["request_id"] == headers["x-amzn-RequestId"]
    assert "what went wrong" in caplog.text


async def test_the_failure_of_a_proxy_is_only_logged(
    kms: Harness, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xksproxy_tools.kms_emulator.endpoint")
    key_id = await kms.create_key(await kms.connected_store())
    kms.proxy.failure = Outcome.ACCESS_DENIED

    _, answer, _ = await http.post("Encrypt", json.dumps({"KeyId": key_id, "Plaintext": "c2VjcmV0"}).encode())

    assert answer["__type"] == "KMSInvalidStateException"
    assert "as the test told it" not in answer["message"]
    fields = caplog.records[-1].fields
    assert "as the test told it" in fields["cause"]
    assert fields["exception_name"] == "KMSInvalidStateException"
    assert "c2VjcmV0" not in str([record.__dict__ for record in caplog.records])
