"""A client of the XKS proxy API. It sends one signed POST at a time over one connection."""

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Any, Self

from xksproxy.sigv4.keyring import Credential
from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.uri import Operation, compose_path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a key store: ``host`` is host or host:port, ``prefix`` is the path before ``/kms/xks/v1``."""

    host: str
    prefix: str
    region: str
    credential: Credential


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, decoded body, and milliseconds from sending the request to reading the last byte of the answer."""

    status: int
    body: dict[str, Any]
    milliseconds: float


class XksClient:
    """A client of one key store, for one thread. Network failures raise OSError or http.client.HTTPException."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext, *, timeout: float = 10.0) -> None:
        """``timeout`` is in seconds. The first call opens the connection."""
        self._endpoint = endpoint
        self._connection = http.client.HTTPSConnection(endpoint.host, context=context, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def connect(self) -> None:
        """Open the connection now, so that the time of a call does not include it."""
        self._connection.connect()

    def call(self, operation: Operation, message: dict[str, Any], key_id: str = "") -> Answer:
        """Sign and send a request, and read the answer. The message is not checked.

        Raises:
            ValueError: the answer is not a JSON object.
        """
        path = compose_path(self._endpoint.prefix, operation, key_id)
        body = json.dumps(message).encode()
        headers = signed_headers(
            self._endpoint.credential,
            self._endpoint.region,
            host=self._endpoint.host,
            path=path,
            body=body,
            now=time.time(),
        )
        started = time.perf_counter()
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        content = response.read()
        milliseconds = 1000 * (time.perf_counter() - started)
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError("the answer is not a JSON object")  # noqa: TRY004 - it is the content that is wrong
        return Answer(response.status, answer, milliseconds)
