"""The order of a request, from its first line to its answer."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiohttp import HttpVersion11, web

from xksproxy.config.model import Server
from xksproxy.deadline import Deadline
from xksproxy.operations.decrypt import decrypt
from xksproxy.operations.encrypt import encrypt
from xksproxy.operations.health import get_health_status
from xksproxy.operations.metadata import get_key_metadata
from xksproxy.server import respond
from xksproxy.server.body import read_body
from xksproxy.server.protocol import Connection
from xksproxy.server.services import Services
from xksproxy.server.snapshot import Service
from xksproxy.sigv4.canonical import HttpRequest, group_headers
from xksproxy.sigv4.verify import Identity, verify
from xksproxy.spec.errors import (
    InternalException,
    MethodNotAllowed,
    ThrottlingException,
    ValidationException,
    XksError,
)
from xksproxy.spec.messages import (
    DecryptRequest,
    EncryptRequest,
    GetHealthStatusRequest,
    GetKeyMetadataRequest,
    RequestMetadata,
    Response,
    decode,
)
from xksproxy.spec.uri import ApiPath, Operation, parse_path

_log: Final = logging.getLogger("xksproxy.request")
_LOGGED_CHARACTERS: Final = 2048


class Pipeline:
    """Answers the requests of one worker. Nothing about keys is told before a request is authenticated."""

    def __init__(self, services: Services, settings: Server) -> None:
        self._services = services
        self._settings = settings
        self._in_flight = 0
        self.draining = False
        """Once set, every answer asks the client to close the connection."""

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer a request, always with JSON, and log one line about it."""
        if request.raw_path == "/ping" and request.method == "GET":
            return respond.pong()
        started = time.monotonic()
        fields: dict[str, Any] = {"peer": request.remote}
        try:
            response = await self._answer(request, fields)
        except XksError as error:
            fields |= {"error": error.name, "error_message": error.message, "reason": error.detail}
            response = respond.failure(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, KMS must get JSON (R-ERR-4)
            # The exception's text could quote the request; its type and place cannot.
            fields |= {"error": "InternalException", "reason": _place(error)}
            response = respond.failure(InternalException("The proxy failed; its log says where"))
        if self.draining:
            response.force_close()
        fields |= {"status": response.status, "ms": round(1000 * (time.monotonic() - started), 2)}
        _log.log(logging.INFO if response.status < 500 else logging.ERROR, "request", extra={"fields": fields})  # noqa: PLR2004
        return response

    async def _answer(self, request: web.BaseRequest, fields: dict[str, Any]) -> web.Response:
        deadline = Deadline.after(self._settings.deadline_ms / 1000)
        path = parse_path(request.raw_path)
        service = self._services.at(path.prefix)
        fields |= {
            "keystore": service.store.name,
            "operation": path.operation.value,
            "key_id": path.key_id[:_LOGGED_CHARACTERS],
        }
        _require_post_over_http_1_1(request)
        body = await read_body(request, deadline)

        headers = group_headers((_text(name), _text(value)) for name, value in request.raw_headers)
        signed = HttpRequest("POST", request.raw_path, headers, body)
        identity = verify(signed, service.store.keyring, time.time())
        fields |= {"access_key_id": identity.access_key_id, "region": identity.region}
        if isinstance(request.protocol, Connection):
            request.protocol.authenticated = True
        with self._in_flight_counted():
            _require_json(headers)
            return respond.success(await self._operate(path, service, identity, body, deadline, fields=fields))

    @contextmanager
    def _in_flight_counted(self) -> Iterator[None]:
        """Count requests from their authentication on, so that strangers cannot use up what KMS needs.

        Before it, a request holds only its connection, whose number is bounded, and for no longer than the deadline.
        """
        if self._in_flight >= self._settings.max_in_flight:
            raise ThrottlingException("The proxy handles as many requests as max_in_flight allows")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _operate(
        self,
        path: ApiPath,
        service: Service,
        identity: Identity,
        body: bytes,
        deadline: Deadline,
        *,
        fields: dict[str, Any],
    ) -> Response:
        """Decode the body as the operation's request and carry it out. Only GetHealthStatus asks no policies."""
        match path.operation:
            case Operation.ENCRYPT:
                encryption = decode(EncryptRequest, body)
                fields |= _metadata_fields(encryption.request_metadata)
                access = service.access_for(path, identity, encryption.request_metadata, fields)
                return await encrypt(encryption, path.key_id, access, deadline)
            case Operation.DECRYPT:
                decryption = decode(DecryptRequest, body)
                fields |= _metadata_fields(decryption.request_metadata)
                access = service.access_for(path, identity, decryption.request_metadata, fields)
                return await decrypt(decryption, path.key_id, access, deadline)
            case Operation.GET_KEY_METADATA:
                metadata = decode(GetKeyMetadataRequest, body).request_metadata
                fields |= _metadata_fields(metadata)
                access = service.access_for(path, identity, metadata, fields)
                return await get_key_metadata(path.key_id, access, deadline)
            case Operation.GET_HEALTH_STATUS:
                fields |= _metadata_fields(decode(GetHealthStatusRequest, body).request_metadata)
                return get_health_status(service.access.engine, self._settings.fleet_size)


def _require_post_over_http_1_1(request: web.BaseRequest) -> None:
    if request.method != "POST":
        raise MethodNotAllowed("The XKS proxy API knows only the method POST")
    if request.version != HttpVersion11:
        raise ValidationException("This proxy speaks HTTP/1.1, which every client of the XKS proxy API does")


def _text(header: bytes) -> str:
    """Bytes of a header as text that turns back into the same bytes when it is hashed."""
    return header.decode("utf-8", "surrogateescape")


def _require_json(headers: dict[str, list[str]]) -> None:
    """R-REQ-1; parameters such as a charset may follow."""
    values = headers.get("content-type", [])
    if len(values) != 1 or values[0].partition(";")[0].strip().lower() != "application/json":
        raise ValidationException("The request needs one Content-Type header, and that of application/json")


def _metadata_fields(metadata: RequestMetadata) -> dict[str, Any]:
    """What the log keeps of ``requestMetadata`` (R-LOG-1); bounded, since callers choose the values."""
    values = {name: getattr(metadata, name) for name in metadata.__struct_fields__}
    return {name: value[:_LOGGED_CHARACTERS] for name, value in values.items() if value is not None}


def _place(error: BaseException) -> str:
    """The type of an exception and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace is not None else "unknown"
    return f"{type(error).__name__} in {where}"
