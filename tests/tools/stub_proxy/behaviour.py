"""All that the stub does, as replaceable parts. A defect replaces some of them."""

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.http import Request, Response, json_response
from stub_proxy.signature import SignatureRules
from xksproxy.spec.uri import ApiPath, Operation


def as_it_is(context: ssl.SSLContext) -> None:
    """The TLS context as the stub makes it."""


def unchanged(request: Request, response: Response) -> Response:
    """What was answered."""
    return response


def nothing(request: Request) -> Response | None:
    """Leave the request to the usual order."""
    return None


def refuse_http(status: int) -> Response:
    """JSON, also where no request could be read."""
    return json_response(
        status, {"errorName": "ValidationException" if status == 400 else "UnsupportedOperationException"}
    )


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The defaults are right."""

    # TLS and connections
    adjust_tls: Callable[[ssl.SSLContext], None] = as_it_is
    certificate: str = "server"
    """Which of the certificates of `certificates.py` is shown."""

    admit: Callable[[str], bool] = lambda name: name == api.CLIENT_NAME
    """Whether a client's common name may come; empty if it has shown no certificate."""

    keep_alive: bool = True
    closes_after_errors: bool = False
    one_read: bool = False
    """Whether what one read of the socket brings is taken for a request, no more and no less."""

    delay_seconds: float = 0.0

    refuse_http: Callable[[int], Response] = refuse_http
    """The answer to what is no readable request, by its status."""

    # The order of a request
    intercept: Callable[[Request], Response | None] = nothing
    """Answers a request before anything else looks at it."""

    find_route: Callable[[str], ApiPath] = api.find_route
    check_method: Callable[[Request], None] = api.check_method
    signature: SignatureRules = field(default_factory=SignatureRules)
    check_content_type: Callable[[Request], None] = api.check_content_type
    decode: Callable[[bytes], dict[str, Any]] = api.decode
    check_metadata: Callable[[Call], None] = api.check_metadata
    find_key: Callable[[Call], Any] = api.find_key
    operations: dict[Operation, Callable[[Call], dict[str, Any]]] = field(default_factory=lambda: dict(api.OPERATIONS))
    finish: Callable[[Request, Response], Response] = unchanged
    """Has the last word on every response."""

    # Encrypt and Decrypt
    read_text: Callable[[str, object], str] = api.read_text
    decode_base64: Callable[[str, str], bytes] = api.decode_base64
    check_algorithm: Callable[[Call], None] = api.check_algorithm
    check_usage: Callable[[Call, Any, str], None] = api.check_usage
    check_state: Callable[[Any], None] = api.check_state
    plaintext_limit: int = 8192
    aad_limit: int = 8192
    iv_bytes: int = 12
    ciphertext_metadata: bytes | None = b"key_version=1"
    compose_aad: Callable[[bytes, bytes], bytes] = api.compose_aad
    integrity_value: Callable[..., bytes] = api.integrity_value
    make_iv: Callable[[int], bytes] = os.urandom
    check_lengths: Callable[[bytes, bytes, bytes], None] = api.check_lengths
    open_sealed: Callable[[bytes, bytes, bytes, bytes, bytes], bytes] = api.open_sealed


@dataclass(frozen=True, slots=True)
class Defect:
    """One wrong behaviour, and the ids of the checks that must fail because of it."""

    name: str
    fails: tuple[str, ...]
    changes: Mapping[str, Any]
    """Fields of :class:`Behaviour` with their wrong values."""

    def behaviour(self) -> Behaviour:
        return replace(Behaviour(), **self.changes)


def operations(**changed: Callable[[Call], Mapping[str, Any]]) -> dict[str, Any]:
    """Changes: other implementations of APIs, by the name of :class:`Operation`."""
    return {"operations": {**api.OPERATIONS, **{Operation[name]: serve for name, serve in changed.items()}}}
