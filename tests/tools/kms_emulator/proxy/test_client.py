"""Calls to a proxy: the request as the proxy receives it, and each failure, caused by a server that fails so."""

import asyncio
import base64
import hashlib
import json
import re
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support import free_port
from tls_server_support import (
    ADDRESS,
    CREDENTIAL,
    HEALTHY,
    HOST,
    PATIENT_SECONDS,
    REGION,
    Answer,
    Certificates,
    answering,
    byte_server,
    client_of,
    http_server,
    never,
    refusing_server,
)
from xksproxy_tools.development.certificates import create_authority
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

from xksproxy.client.target import TargetError
from xksproxy.sigv4.canonical import HttpRequest, group_headers
from xksproxy.sigv4.keyring import Keyring
from xksproxy.sigv4.verify import verify
from xksproxy.spec.messages import CryptoRequestMetadata, HealthRequestMetadata, KeyRequestMetadata

HEALTH_METADATA = HealthRequestMetadata(kms_request_id="4112f4d6-db54", kms_operation="ConnectCustomKeyStore")
KEY_METADATA = KeyRequestMetadata(
    aws_principal_arn="arn:aws:iam::123456789012:user/Alice", kms_operation="CreateKey", kms_request_id="4112f4d6-db54"
)
CRYPTO_METADATA = CryptoRequestMetadata(
    aws_principal_arn="arn:aws:iam::123456789012:user/Alice",
    kms_key_arn="arn:aws:kms:eu-west-1:123456789012:key/1234abcd",
    kms_operation="GenerateDataKey",
    kms_request_id="4112f4d6-db54",
    aws_source_vpc="vpc-1",
)
HEALTHY_BODY = json.dumps(HEALTHY).encode()
HTTP_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SHORT_SECONDS = 0.25
"""KMS's own limit, where it must run out whatever the machine does."""


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: ([0-9]+)", head)
    assert length
    await reader.readexactly(int(length[1]))


async def failure(client: ProxyClient, address: ProxyAddress = ADDRESS) -> ProxyFailure:
    """How GetHealthStatus fails."""
    async with client:
        with pytest.raises(ProxyFailure) as raised:
            await client.health(address, HEALTH_METADATA)
    return raised.value


async def failure_at(
    certificates: Certificates, answer: Answer, context: ssl.SSLContext | None = None, **settings: Any
) -> ProxyFailure:
    """How GetHealthStatus fails at a server with these answers."""
    async with http_server(answer, context or certificates.context()) as port:
        return await failure(client_of(port, certificates, **settings))


# --- The request, and the good answers


class Recorder:
    """A proxy that verifies signatures, gives the answers of the test, and records the requests."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.connections: set[object] = set()
        self.headers: list[dict[str, list[str]]] = []

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        headers = group_headers(request.raw_headers)
        verify(HttpRequest(request.method, request.path, headers, body), Keyring([CREDENTIAL]), time.time())
        self.requests.append((request.path, json.loads(body)))
        self.connections.add(request.transport)
        self.headers.append(headers)
        return web.json_response(self._answers.pop(0))


@asynccontextmanager
async def recording(
    certificates: Certificates, *answers: dict[str, Any]
) -> AsyncIterator[tuple[ProxyClient, Recorder]]:
    recorder = Recorder(*answers)
    async with http_server(recorder, certificates.context()) as port, client_of(port, certificates) as client:
        yield client, recorder


async def test_a_request_is_signed_for_the_endpoint_regardless_of_the_address_it_connects_to(
    certificates: Certificates,
) -> None:
    """R-AUTH-8, R-TLS-11: the port is no part of what is signed."""
    async with recording(certificates, HEALTHY) as (client, recorder):
        health = await client.health(ADDRESS, HEALTH_METADATA)

    assert health.ekm_fleet_details[0].model == "Luna 7"
    metadata = {"kmsRequestId": "4112f4d6-db54", "kmsOperation": "ConnectCustomKeyStore"}
    assert recorder.requests == [("/payments/kms/xks/v1/health", {"requestMetadata": metadata})]
    (headers,) = recorder.headers
    assert headers["host"] == [HOST]
    assert headers["content-type"] == ["application/json"]
    assert f"/{REGION}/kms-xks-proxy/aws4_request, SignedHeaders=host;x-amz-date, " in headers["authorization"][0]


async def test_key_metadata_are_requested_without_a_kms_key_arn(
    certificates: Certificates,
) -> None:
    answer = {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}
    async with recording(certificates, answer) as (client, recorder):
        key = await client.key_metadata(ADDRESS, "payments.key_1", KEY_METADATA)

    assert (key.key_spec, key.key_status) == ("AES_256", "ENABLED")
    ((path, body),) = recorder.requests
    assert path == "/payments/kms/xks/v1/keys/payments.key_1/metadata"
    assert body["requestMetadata"].keys() == {"awsPrincipalArn", "kmsOperation", "kmsRequestId"}


async def test_decrypt_sends_the_output_of_encrypt_unchanged(certificates: Certificates) -> None:
    """R-ENC-13, R-DEC-7; an absent ciphertextMetadata stays absent, an empty one stays there."""
    iv, tag = b"i" * 12, b"t" * 16
    for metadata in (None, b"", b"v1"):
        value = hashlib.sha256(b"aad" + (metadata or b"") + iv + b"cipher" + tag).digest()
        answer = {
            "ciphertext": encoded(b"cipher"),
            "initializationVector": encoded(iv),
            "authenticationTag": encoded(tag),
            "ciphertextDataIntegrityValue": encoded(value),
            **({} if metadata is None else {"ciphertextMetadata": encoded(metadata)}),
        }

        async with recording(certificates, answer, {"plaintext": encoded(b"plain!")}) as (client, recorder):
            sealed = await client.encrypt(ADDRESS, "key", CRYPTO_METADATA, b"plain!", b"aad")
            opened = await client.decrypt(ADDRESS, "key", CRYPTO_METADATA, sealed, b"aad")

        assert opened == b"plain!"
        assert sealed == Sealed(b"cipher", metadata, iv, tag)
        (_, encryption), (_, decryption) = recorder.requests
        assert encryption["ciphertextDataIntegrityValueAlgorithm"] == "SHA_256"
        assert encryption["requestMetadata"]["awsSourceVpc"] == "vpc-1"
        assert "kmsViaService" not in encryption["requestMetadata"]
        assert decryption.get("ciphertextMetadata") == (None if metadata is None else encoded(metadata))
        assert decryption["additionalAuthenticatedData"] == encryption["additionalAuthenticatedData"] == encoded(b"aad")


async def test_connections_are_kept(certificates: Certificates) -> None:
    async with recording(certificates, *[HEALTHY] * 3) as (client, recorder):
        for _ in range(3):
            await client.health(ADDRESS, HEALTH_METADATA)

    assert len(recorder.connections) == 1


async def test_an_idle_connection_that_the_proxy_has_closed_is_replaced(certificates: Certificates) -> None:
    connections = 0

    async def answer_once_and_hang_up_on_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(HTTP_OK + b"Content-Length: %d\r\n\r\n%b" % (len(HEALTHY_BODY), HEALTHY_BODY))
        await read_request(reader)

    async with (
        byte_server(answer_once_and_hang_up_on_the_second, certificates.context()) as port,
        client_of(port, certificates) as client,
    ):
        for _ in range(3):
            await client.health(ADDRESS, HEALTH_METADATA)

    assert connections == 3


# --- No TCP connection


async def test_a_closed_port_is_unreachable(certificates: Certificates) -> None:
    error = await failure(client_of(free_port(), certificates))

    assert error.outcome is Outcome.NO_TCP
    assert "127.0.0.1" in error.detail


async def test_the_next_address_is_tried_where_one_refuses(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two_addresses(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", at)) for at in (free_port(), port)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two_addresses)
    async with (
        http_server(answering(HEALTHY), certificates.context()) as port,
        client_of(port, certificates, resolve={}) as client,
    ):
        assert (await client.health(ADDRESS, HEALTH_METADATA)).xks_proxy_vendor == "Acme"


async def test_a_name_without_an_address_is_unreachable(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_such_name(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", no_such_name)
    error = await failure(client_of(1, certificates, resolve={}))

    assert error.outcome is Outcome.NO_TCP
    assert error.detail == f"{HOST} has no address: Name or service not known"


async def test_a_name_service_that_does_not_answer_makes_the_proxy_unreachable(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    error = await failure(client_of(1, certificates, SHORT_SECONDS, resolve={}))

    assert error.outcome is Outcome.NO_TCP
    assert "name service" in error.detail


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example.com", "-", "."])
async def test_an_invalid_host_name_is_unreachable(certificates: Certificates, host: str) -> None:
    """The pattern of XksProxyUriEndpoint accepts these."""
    address = ProxyAddress(f"https://{host}", "/kms/xks/v1", CREDENTIAL)

    assert (await failure(client_of(1, certificates, resolve={}), address)).outcome is Outcome.NO_TCP


async def test_a_host_that_drops_packets_is_unreachable(certificates: Certificates) -> None:
    """The kernel drops connection requests for a port with a full backlog."""
    with full_backlog() as port:
        error = await failure(client_of(port, certificates, SHORT_SECONDS))

    assert error.outcome is Outcome.NO_TCP
    assert "twice" in error.detail


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port with a full backlog, on which nobody accepts connections."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0.5)
            try:
                waiting.connect(server.getsockname())
            except TimeoutError:
                break
        yield server.getsockname()[1]


# --- No TLS connection


@pytest.mark.parametrize(
    ("certificate", "settings", "reason"),
    [
        ({"days": 0}, {}, "certificate has expired"),
        ({"host": "other.example.com"}, {}, "Hostname mismatch"),
        # The name is that of the endpoint, not of the address that a rule leads to.
        ({"host": "127.0.0.1"}, {}, "Hostname mismatch"),
        ({"authority": create_authority("somebody else")}, {}, "unable to get local issuer certificate"),
        ({}, {"ca": None}, "unable to get local issuer certificate"),
    ],
    ids=["expired", "other-host", "address", "other-authority", "private-authority"],
)
async def test_a_certificate_that_kms_does_not_trust_is_refused(
    certificates: Certificates, certificate: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    error = await failure_at(certificates, answering(HEALTHY), certificates.context(**certificate), **settings)

    assert error.outcome is Outcome.NO_TLS
    assert f"the certificate is refused: {reason}" in error.detail


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_an_old_tls_version_is_refused(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """R-TLS-1."""
    context = certificates.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")

    assert "PROTOCOL_VERSION" in await refused_handshake(context, certificates)


@pytest.mark.parametrize(
    "suite", ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-SHA384"]
)
async def test_a_server_without_a_common_suite_is_refused(certificates: Certificates, suite: str) -> None:
    """R-TLS-2."""
    context = certificates.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(f"{suite}:@SECLEVEL=0")

    assert "HANDSHAKE_FAILURE" in await refused_handshake(context, certificates)


async def refused_handshake(context: ssl.SSLContext, certificates: Certificates) -> str:
    """The detail of the failure when a server refuses the handshake."""
    with refusing_server(context) as port:
        error = await failure(client_of(port, certificates))
    assert error.outcome is Outcome.NO_TLS
    return error.detail


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_work(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = certificates.context()
    context.minimum_version = context.maximum_version = version

    async with http_server(answering(HEALTHY), context) as port, client_of(port, certificates) as client:
        assert (await client.health(ADDRESS, HEALTH_METADATA)).xks_proxy_fleet_size == 1


@pytest.mark.parametrize("sent", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["plain", "closed"])
async def test_a_server_that_does_not_finish_the_handshake_is_a_tls_failure(
    certificates: Certificates, sent: bytes
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(sent)
        await writer.drain()

    async with byte_server(answer) as port:
        assert (await failure(client_of(port, certificates))).outcome is Outcome.NO_TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_demands_a_client_certificate_refuses_a_client_without_one(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 the server refuses after the client's handshake, when the request has been sent."""
    context = certificates.context()
    context.minimum_version = context.maximum_version = version
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED

    await refused_handshake(context, certificates)


async def test_the_client_certificate_is_sent_on_request(certificates: Certificates) -> None:
    """R-TLS-6."""
    names = []

    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        names.append(request.transport.get_extra_info("peercert")["subject"])
        return web.json_response(HEALTHY)

    context = certificates.context()
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    pem = certificates.client_pem("cks.kms.eu-west-1.amazonaws.com")
    async with http_server(answer, context) as port, client_of(port, certificates, client_certificate=pem) as client:
        await client.health(ADDRESS, HEALTH_METADATA)

    assert names == [((("commonName", "cks.kms.eu-west-1.amazonaws.com"),),)]


async def test_a_file_without_a_certificate_is_refused_before_any_call(certificates: Certificates) -> None:
    certificates.ca.write_text("no PEM")

    with pytest.raises(TargetError, match="expected CA certificates in PEM"):
        client_of(1, certificates)


# --- No answer in time


async def test_a_proxy_that_never_answers_is_tried_twice(certificates: Certificates) -> None:
    requests = 0

    async def answer_the_first_only(_: web.BaseRequest) -> web.Response:
        nonlocal requests
        requests += 1
        return web.json_response(HEALTHY) if requests == 1 else await never()

    async with (
        http_server(answer_the_first_only, certificates.context()) as port,
        client_of(port, certificates) as client,
    ):
        await client.health(ADDRESS, HEALTH_METADATA)
        client._time_limit = SHORT_SECONDS
        with pytest.raises(ProxyFailure) as raised:
            await client.health(ADDRESS, HEALTH_METADATA)

    assert raised.value.outcome is Outcome.TIMED_OUT
    assert raised.value.detail == "there was no complete response within 250 ms, twice"


class TwoLimits(ProxyClient):
    """The first attempt has KMS's limit; the second has all the time it needs."""

    attempts = 0

    @property
    def _time_limit(self) -> float:
        self.attempts += 1
        return SHORT_SECONDS if self.attempts == 1 else PATIENT_SECONDS

    @_time_limit.setter
    def _time_limit(self, _: float) -> None:
        pass


async def test_a_second_attempt_may_succeed(certificates: Certificates) -> None:
    async def answer_the_second(_: web.BaseRequest) -> web.Response:
        return await never() if client.attempts == 1 else web.json_response(HEALTHY)

    async with http_server(answer_the_second, certificates.context()) as port:
        rules = {(HOST, 443): ("127.0.0.1", port)}
        async with TwoLimits(REGION, resolve=rules, ca=certificates.ca) as client:
            assert (await client.health(ADDRESS, HEALTH_METADATA)).xks_proxy_fleet_size == 1

    assert client.attempts == 2


async def test_a_handshake_that_is_never_finished_is_a_timeout(certificates: Certificates) -> None:
    """The proxy was reachable, because there was a connection."""
    async with byte_server(never) as port:
        error = await failure(client_of(port, certificates, SHORT_SECONDS))

    assert error.outcome is Outcome.TIMED_OUT
    assert "TLS handshake" in error.detail


async def test_an_incomplete_response_is_a_timeout(certificates: Certificates) -> None:
    async def answer_half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HTTP_OK + b"Content-Length: 1000\r\n\r\n{")
        await never()

    async with byte_server(answer_half, certificates.context()) as port:
        error = await failure(client_of(port, certificates, SHORT_SECONDS))

    assert error.outcome is Outcome.TIMED_OUT


# --- Connections that end, and answers that are no HTTP


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (b"", Outcome.CONNECTION_LOST),
        (HTTP_OK, Outcome.CONNECTION_LOST),
        (HTTP_OK + b"Content-Length: 1000\r\n\r\n{", Outcome.CONNECTION_LOST),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Outcome.MALFORMED),
        (b"HTTP/1.1 twohundred OK\r\n\r\n", Outcome.MALFORMED),
        (HTTP_OK + b"Content-Length: many\r\n\r\n", Outcome.MALFORMED),
        (HTTP_OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", Outcome.MALFORMED),
    ],
)
async def test_an_incomplete_or_invalid_response_fails_without_a_second_attempt(
    certificates: Certificates, said: bytes, outcome: Outcome
) -> None:
    connections = 0

    async def say_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await read_request(reader)
        writer.write(said)
        writer.close()
        await writer.wait_closed()

    async with byte_server(say_and_close, certificates.context()) as port:
        error = await failure(client_of(port, certificates))

    assert error.outcome is outcome
    assert connections == 1


async def test_an_endless_response_is_refused(certificates: Certificates) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HTTP_OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
            await writer.drain()

    async with byte_server(talk, certificates.context()) as port:
        error = await failure(client_of(port, certificates))

    assert error.outcome is Outcome.MALFORMED
    assert "longer than 65536 bytes" in error.detail


ERROR_NAME = Outcome.AUTHENTICATION_FAILED.value
ERROR_NAMES = [outcome.value for outcome in Outcome if outcome.value.endswith("Exception")]


@pytest.mark.parametrize(
    ("status", "body", "outcome", "detail"),
    [
        *(
            (418, {"errorName": name, "errorMessage": "ask"}, Outcome(name), f"HTTP 418 {name}: ask")
            for name in ERROR_NAMES
        ),
        *((status, {}, Outcome.MALFORMED, f"HTTP {status} without errorName") for status in (301, 307)),
    ],
)
async def test_an_error_of_the_proxy_or_a_redirection_is_a_failure_without_a_second_request(
    certificates: Certificates, status: int, body: dict[str, str], outcome: Outcome, detail: str
) -> None:
    """R-ERR-3. An error is never retried, not even one that could be retried, and no redirection is followed."""
    requests = 0

    async def refuse(_: web.BaseRequest) -> web.Response:
        nonlocal requests
        requests += 1
        return web.json_response(body, status=status, headers={"Location": f"https://{HOST}/elsewhere"})

    error = await failure_at(certificates, refuse)

    assert (error.outcome, error.detail, requests) == (outcome, detail, 1)


@pytest.mark.parametrize(
    ("date", "detail"),
    [
        (lambda: formatdate(time.time() - 7200, usegmt=True), "; the proxy's clock differs by -72"),
        (lambda: formatdate(time.time() + 7200, usegmt=True), "; the proxy's clock differs by +7"),
        (lambda: formatdate(usegmt=True), ""),
        (lambda: "yesterday", ""),
        (lambda: "Mon, 99 Foo 2026 00:00:00 GMT", ""),
        (lambda: "", ""),
    ],
)
async def test_a_refused_signature_is_reported_with_the_difference_of_the_clocks(
    certificates: Certificates, date: Callable[[], str], detail: str
) -> None:
    """R-AUTH-10."""

    async def refuse(_: web.BaseRequest) -> web.Response:
        return web.json_response({"errorName": ERROR_NAME}, status=401, headers={"Date": date()})

    error = await failure_at(certificates, refuse)

    assert error.outcome is Outcome.AUTHENTICATION_FAILED
    shown = error.detail.removeprefix(f"HTTP 401 {ERROR_NAME}")
    assert shown.startswith(detail) if detail else shown == ""


async def test_a_call_that_is_cancelled_leaves_the_client_usable(certificates: Certificates) -> None:
    arrived = asyncio.Event()
    requests = 0

    async def answer_the_second(_: web.BaseRequest) -> web.Response:
        nonlocal requests
        requests += 1
        if requests == 1:
            arrived.set()
            await never()
        return web.json_response(HEALTHY)

    async with http_server(answer_the_second, certificates.context()) as port, client_of(port, certificates) as client:
        call = asyncio.create_task(client.health(ADDRESS, HEALTH_METADATA))
        await arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.health(ADDRESS, HEALTH_METADATA)).xks_proxy_fleet_size == 1
