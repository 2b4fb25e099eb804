"""Calls to an XKS proxy as AWS KMS makes them: signed, within 250 ms each, over persistent connections."""

import asyncio
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.limits import CLOCK_SKEW_SECONDS, KMS_TIMEOUT_MS
from xksproxy.spec.messages import (
    CDIV_ALGORITHM,
    ENCRYPTION_ALGORITHM,
    CryptoRequestMetadata,
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GetHealthStatusRequest,
    GetHealthStatusResponse,
    GetKeyMetadataRequest,
    GetKeyMetadataResponse,
    HealthRequestMetadata,
    KeyRequestMetadata,
    Request,
    encode,
)
from xksproxy.spec.uri import BASE_PATH, Operation, compose_path
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.connection import Peer, Stage, connect_tcp, kms_tls_context, resolve, start_tls
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.proxy.responses import (
    Answer,
    Sealed,
    check_decryption,
    check_encryption,
    check_health,
    check_key,
    malformed,
    read_answer,
)

_SECONDS: Final = KMS_TIMEOUT_MS / 1000
_IDLE_SECONDS: Final = 60.0
_MAXIMUM_ANSWER_BYTES: Final = 64 * 1024
_NOT_SENT: Final = ("Accept", "Accept-Encoding", "User-Agent")


@dataclass(slots=True)
class _Attempt:
    """The progress of an attempt. The connection pool updates it while it connects."""

    stage: Stage = Stage.EXCHANGE
    connected: bool = False
    """Whether the attempt made a new connection."""


@dataclass(frozen=True, slots=True)
class _Reply:
    """An HTTP response."""

    status: int
    body: bytes
    date: str
    """The header Date; empty if it is missing."""


_attempt: Final[ContextVar[_Attempt]] = ContextVar("_attempt")


class ProxyClient:
    """A client for all proxies. It belongs to the event loop that creates it, and supports concurrent calls.

    Every failure of a call is a :class:`ProxyFailure`. A call is retried once after a timeout, and after nothing else.
    """

    def __init__(
        self,
        region: str,
        *,
        resolve: Mapping[Peer, Peer] | None = None,
        ca: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
        time_limit: float = _SECONDS,
    ) -> None:
        """Make no connection yet.

        Args:
            region: the Region that signatures are for.
            resolve: other addresses for hosts and ports; certificates and signatures use the name of the endpoint.
            ca: PEM file of the trusted CAs; the default is the system's.
            client_certificate: PEM file with the client certificate for mutual TLS.
            client_key: PEM file with its private key, if that is in another file.
            time_limit: seconds for one attempt, including the connection and TLS.

        Raises:
            TargetError: a PEM file cannot be used.
        """
        self._region = region
        self._time_limit = time_limit
        self._connections = _Connections(kms_tls_context(ca, client_certificate, client_key), resolve or {})
        self._session = aiohttp.ClientSession(
            connector=self._connections,
            connector_owner=False,
            timeout=aiohttp.ClientTimeout(),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_SENT,
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections immediately."""
        await self._session.close()
        await self._connections.close(abort_ssl=True)

    async def health(self, address: ProxyAddress, metadata: HealthRequestMetadata) -> GetHealthStatusResponse:
        """Call GetHealthStatus. The call fails with ALL_UNAVAILABLE if every instance is UNAVAILABLE."""
        request = GetHealthStatusRequest(request_metadata=metadata)
        return check_health(await self._call(address, Operation.GET_HEALTH_STATUS, request, GetHealthStatusResponse))

    async def key_metadata(
        self, address: ProxyAddress, key_id: str, metadata: KeyRequestMetadata
    ) -> GetKeyMetadataResponse:
        """GetKeyMetadata; see :func:`kms_errors.key_refusal` for the check whether KMS can use the key."""
        request = GetKeyMetadataRequest(request_metadata=metadata)
        return check_key(await self._call(address, Operation.GET_KEY_METADATA, request, GetKeyMetadataResponse, key_id))

    async def encrypt(
        self, address: ProxyAddress, key_id: str, metadata: CryptoRequestMetadata, plaintext: bytes, aad: bytes
    ) -> Sealed:
        """Call Encrypt. The ciphertext data integrity value is requested and verified (R-CDIV-7)."""
        request = EncryptRequest(
            request_metadata=metadata,
            plaintext=plaintext,
            encryption_algorithm=ENCRYPTION_ALGORITHM,
            additional_authenticated_data=aad,
            ciphertext_data_integrity_value_algorithm=CDIV_ALGORITHM,
        )
        answer = await self._call(address, Operation.ENCRYPT, request, EncryptResponse, key_id)
        return check_encryption(answer, plaintext, aad)

    async def decrypt(
        self, address: ProxyAddress, key_id: str, metadata: CryptoRequestMetadata, sealed: Sealed, aad: bytes
    ) -> bytes:
        """Call Decrypt for the output of :meth:`encrypt`."""
        request = DecryptRequest(
            request_metadata=metadata,
            ciphertext=sealed.ciphertext,
            encryption_algorithm=ENCRYPTION_ALGORITHM,
            initialization_vector=sealed.iv,
            authentication_tag=sealed.tag,
            additional_authenticated_data=aad,
            ciphertext_metadata=sealed.ciphertext_metadata,
        )
        answer = await self._call(address, Operation.DECRYPT, request, DecryptResponse, key_id)
        return check_decryption(answer, sealed.ciphertext)

    async def _call(
        self, address: ProxyAddress, operation: Operation, request: Request, answer: type[Answer], key_id: str = ""
    ) -> Answer:
        path = compose_path(address.uri_path.removesuffix(BASE_PATH), operation, key_id)
        reply = await self._post(address, path, encode(request))
        try:
            return read_answer(answer, reply.status, reply.body)
        except ProxyFailure as failure:
            if failure.outcome is Outcome.AUTHENTICATION_FAILED and (difference := _clock_difference(reply.date)):
                raise ProxyFailure(failure.outcome, f"{failure.detail}; {difference}") from None
            raise

    async def _post(self, address: ProxyAddress, path: str, body: bytes) -> _Reply:
        """Send a request. After a timeout it is sent once more."""
        furthest = Stage.NAME
        for _ in range(2):
            attempt = _Attempt()
            _attempt.set(attempt)
            try:
                async with asyncio.timeout(self._time_limit):
                    with _translated_failures():
                        return await self._exchange(attempt, address, path, body)
            except TimeoutError:
                furthest = max(furthest, attempt.stage)
        raise self._timed_out(furthest)

    async def _exchange(self, attempt: _Attempt, address: ProxyAddress, path: str, body: bytes) -> _Reply:
        """Send one request. If the proxy has closed an idle connection, another connection is used."""
        url = _url(address.host, path)
        while True:
            headers = signed_headers(
                address.credential, self._region, host=address.host, path=path, body=body, now=time.time()
            )
            try:
                async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    return _Reply(response.status, await _content(response), response.headers.get("Date", ""))
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if attempt.connected:
                    raise

    def _timed_out(self, furthest: Stage) -> ProxyFailure:
        limit = f"within {1000 * self._time_limit:.0f} ms, twice"
        match furthest:
            case Stage.NAME:
                return ProxyFailure(Outcome.NO_TCP, f"the name service did not answer {limit}")
            case Stage.TCP:
                return ProxyFailure(Outcome.NO_TCP, f"no address accepted a connection {limit}")
            case Stage.TLS:
                return ProxyFailure(Outcome.TIMED_OUT, f"the TLS handshake was not finished {limit}")
            case Stage.EXCHANGE:
                return ProxyFailure(Outcome.TIMED_OUT, f"there was no complete response {limit}")


class _Connections(aiohttp.BaseConnector):
    """aiohttp's connection pool. It connects in three steps, because KMS reports different errors for them."""

    def __init__(self, context: ssl.SSLContext, rules: Mapping[Peer, Peer]) -> None:
        super().__init__(limit=0, keepalive_timeout=_IDLE_SECONDS)
        self._context = context
        self._rules = rules

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ARG002, ASYNC109 - the same; the caller limits the time
    ) -> ResponseHandler:
        """Make a connection. Subclasses of aiohttp's connector implement this method."""
        attempt = _attempt.get()
        attempt.connected, attempt.stage = True, Stage.NAME
        host, port = req.url.host or "", req.url.port or 0
        addresses = await resolve(host, port, self._rules)
        attempt.stage = Stage.TCP
        connection = await connect_tcp(addresses)
        attempt.stage = Stage.TLS
        _, protocol = await start_tls(connection, self._context, host, self._factory)
        attempt.stage = Stage.EXCHANGE
        return protocol


def _url(host: str, path: str) -> URL:
    try:
        return URL.build(scheme="https", host=host, path=path, encoded=True)
    except ValueError as error:
        raise ProxyFailure(Outcome.NO_TCP, f"{host!r} is not a host name: {error}") from error


async def _content(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for part in response.content.iter_any():
        content += part
        if len(content) > _MAXIMUM_ANSWER_BYTES:
            raise malformed(f"HTTP {response.status}, and the body is longer than {_MAXIMUM_ANSWER_BYTES} bytes")
    return bytes(content)


def _clock_difference(date: str) -> str | None:
    """A text about the proxy's clock, if its difference makes signatures invalid (R-AUTH-10)."""
    try:
        seconds = parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return f"the proxy's clock differs by {seconds:+.0f} s" if abs(seconds) > CLOCK_SKEW_SECONDS else None


@contextmanager
def _translated_failures() -> Iterator[None]:
    """Translate the exceptions of aiohttp to ProxyFailure."""
    try:
        yield
    except aiohttp.ClientResponseError as error:
        raise malformed(f"the answer is not HTTP: {error.message}") from error
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error.__cause__, ssl.SSLError):
            # In TLS 1.3 a server checks the client's certificate after the client has finished its handshake.
            reason = error.__cause__.reason
            raise ProxyFailure(Outcome.NO_TLS, f"the proxy ended TLS after the handshake: {reason}") from error
        raise ProxyFailure(Outcome.CONNECTION_LOST, f"the connection ended before the response: {error}") from error
