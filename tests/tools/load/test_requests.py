import asyncio
import base64
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from echo_proxy import echo
from fault_support import until
from xksproxy_tools.load.plan import Destination, Plan, Weighted, parse_mix
from xksproxy_tools.load.requests import OK, EncryptRequest, Request, RequestMaker, RequestResult
from xksproxy_tools.load.signing import FRESH_SECONDS, SignedPool

from xksproxy.client.target import Target
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.spec.messages import GetKeyMetadataResponse
from xksproxy.spec.uri import Operation

_DESTINATION = Destination(Target("proxy.example", 443, "/store", "eu-west-1", generate_credential()), "key-1")


def _encrypt(*, cdiv: bool = True) -> EncryptRequest:
    request = EncryptRequest(_DESTINATION, b"twelve bytes", b"aad", cdiv=cdiv)
    request.sign()
    return request


def _message(request: Request) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(request.wire.partition(b"\r\n\r\n")[2])
    return message


def _answer(request: Request, **changes: Any) -> bytes:
    """What an echo answers, changed; None takes a field away."""
    _, answer = echo(request.operation.value, _message(request))
    changed: Mapping[str, Any] = {**answer, **changes}
    return json.dumps({name: value for name, value in changed.items() if value is not None}).encode()


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_correct_answers_are_ok() -> None:
    request = _encrypt()
    inverse = request.inverse(_answer(request))
    inverse.sign()

    assert request.check_response(200, _answer(request)) is OK
    assert inverse.check_response(200, _answer(inverse)) is OK
    assert _message(inverse)["ciphertextMetadata"] == _b64(b"v1")
    assert _message(inverse)["additionalAuthenticatedData"] == _b64(b"aad")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"ciphertextDataIntegrityValue": _b64(b"x" * 32)}, "INTEGRITY"),
        ({"ciphertextDataIntegrityValue": None}, "INTEGRITY"),
        ({"ciphertextMetadata": _b64(b"v2")}, "INTEGRITY"),
        ({"authenticationTag": _b64(b"t" * 12)}, "length"),
        ({"ciphertext": _b64(b"short")}, "length"),
        ({"initializationVector": _b64(b"i" * 8)}, "length"),
        ({"ciphertextMetadata": _b64(b"m" * 21)}, "length"),
        ({"ciphertext": None}, "form"),
        ({"authenticationTag": "not base64"}, "form"),
    ],
    ids=str,
)
def test_a_false_answer_to_encrypt_is_wrong(changes: dict[str, Any], name: str) -> None:
    request = _encrypt()

    verdict = request.check_response(200, _answer(request, **changes))

    assert verdict.wrong
    assert name in verdict.name


def test_another_plaintext_of_the_same_length_is_wrong() -> None:
    request, body = _encrypt(), json.dumps({"plaintext": _b64(b"twelve Bytes")}).encode()

    result = request.inverse(_answer(request)).check_response(200, body)

    assert result == RequestResult("decrypt: WRONG PLAINTEXT", wrong=True)


def test_an_error_is_named_and_not_wrong() -> None:
    request = _encrypt()

    assert (
        request.check_response(429, b'{"errorName":"ThrottlingException","errorMessage":""}').name
        == "429 ThrottlingException"
    )
    assert request.check_response(502, b"<html>").name == "502 without a JSON error body"
    assert not request.check_response(502, b"<html>").wrong


def test_a_request_is_signed_as_the_proxy_verifies_it() -> None:
    head = _encrypt().wire.partition(b"\r\n\r\n")[0].decode().split("\r\n")

    assert head[0] == "POST /store/kms/xks/v1/keys/key-1/encrypt HTTP/1.1"
    assert "Host: proxy.example" in head
    assert any(line.startswith("Authorization: AWS4-HMAC-SHA256 Credential=") for line in head)


def test_requests_are_of_the_mix_and_sizes_and_go_to_every_destination() -> None:
    plan = Plan(
        mix=parse_mix("encrypt=50,decrypt=25,metadata=25"),
        plaintext_bytes=Weighted(((10, 3), (20, 1))),
        cdiv_percent=50,
    )
    others = [Destination(_DESTINATION.target, name) for name in ("key-1", "key-2", "key-3")]
    maker = RequestMaker(plan, others)
    decrypts = [request.inverse(_answer(_signed(request))) for request in maker.encrypts(6)]

    made = [_signed(request) for request in maker.mixed(120, decrypts)]

    assert Counter(request.operation for request in made) == {
        Operation.ENCRYPT: 60,
        Operation.DECRYPT: 30,
        Operation.GET_KEY_METADATA: 30,
    }
    encrypts = [request for request in made if isinstance(request, EncryptRequest)]
    assert Counter(len(request.plaintext) for request in encrypts) == {10: 45, 20: 15}
    assert sum(request.cdiv for request in encrypts) == 30
    assert len({request.wire.split(b" ")[1] for request in encrypts}) == 3


def _signed(request: Any) -> Any:
    request.sign()
    return request


async def test_an_old_request_is_signed_again() -> None:
    request = _encrypt()
    pool = SignedPool([request])
    request.signed_at -= FRESH_SECONDS + 1
    stale, request.wire = request.wire, b""

    task = asyncio.create_task(pool.keep_fresh())
    await until(lambda: request.wire != b"")
    task.cancel()

    assert len(request.wire) == len(stale)
    assert FRESH_SECONDS < 120


def test_a_pool_starts_again_at_its_end() -> None:
    requests = [Request(_DESTINATION, Operation.GET_KEY_METADATA, {}, GetKeyMetadataResponse) for _ in range(3)]
    pool = SignedPool(requests)

    assert [pool.take() for _ in range(6)] == requests * 2
    assert all(request.wire for request in requests)
