"""The order of a request, from its first line to its answer."""

import time
from typing import Final

import msgspec

from xksproxy.config.model import Server
from xksproxy.deadline import Deadline
from xksproxy.operations.decrypt import decrypt
from xksproxy.operations.encrypt import encrypt
from xksproxy.operations.health import get_health_status
from xksproxy.operations.metadata import get_key_metadata
from xksproxy.request_stats import current_request_stats
from xksproxy.server import respond
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.record import Recorder, RequestRecord
from xksproxy.server.request_body import read_body
from xksproxy.server.services import Services
from xksproxy.server.snapshot import Service
from xksproxy.sigv4.canonical import HttpRequest
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
    decode,
    received_metadata,
)
from xksproxy.spec.messages import Response as Message
from xksproxy.spec.uri import ApiPath, Operation, parse_path

_UNRECORDED: Final = "The proxy refuses what it cannot record; its audit log cannot be written"


class Pipeline:
    """Answers the requests of one worker. It discloses nothing about keys before a request is authenticated."""

    def __init__(self, services: Services, settings: Server, recorder: Recorder) -> None:
        self._services = services
        self._settings = settings
        self._recorder = recorder
        self.draining = False
        """Whether the service stops and is no longer ready."""

    async def handle(self, request: Request) -> Response:
        """Answer a request, always with JSON, and record it."""
        if request.target.partition("?")[0] == "/ping" and request.method in ("GET", "HEAD"):
            return respond.PONG
        record = RequestRecord(request.peer.address, time.monotonic(), request.client_name)
        record.vpc_endpoint_id = request.peer.vpc_endpoint_id
        if self._recorder.traces:
            record.stats.calls = []
        current_request_stats.set(record.stats)
        deadline = Deadline.after(self._settings.deadline_ms / 1000)
        try:
            message = await self._answer(request, record, deadline)
            response = respond.success(message, authenticated=True)
            record.status = response.status
        except XksError as error:
            response = _refuse(record, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, KMS must get JSON (R-ERR-4)
            # The exception's text could quote the request; its type and place cannot.
            detail = _place(error)
            response = _refuse(record, InternalException("The proxy failed; its log says where", detail=detail))
        if not await self._recorder.write_line(record, deadline):
            record = msgspec.structs.replace(record)  # the line of the first one may be written now
            detail = "the audit line was not on disk in time"
            response = _refuse(record, InternalException(_UNRECORDED, detail=detail))
        self._recorder.count(record)
        return response

    async def _answer(self, request: Request, record: RequestRecord, deadline: Deadline) -> Message:
        path = parse_path(request.target)
        service = self._services.at(path.prefix)
        record.keystore, record.operation, record.key_id = service.store.name, path.operation, path.key_id
        if request.method != "POST":
            raise MethodNotAllowed("The XKS proxy API has only the method POST")
        body = await read_body(request, deadline)

        signed = HttpRequest("POST", request.target, request.headers, body)
        identity = verify(signed, service.store.keyring, time.time())
        record.access_key_id, record.region = identity.access_key_id, identity.region
        record.clock_offset = identity.clock_offset
        service.store.credential_uses.mark_used(identity.access_key_id)
        if self._recorder.audit.refuses:
            raise InternalException(_UNRECORDED)
        if service.quota is not None and not service.quota.take():
            raise ThrottlingException("The key store has more requests than its requests_per_second and burst allow")
        # Only authenticated requests count, so that strangers cannot use up the limit. Before this point, a request
        # holds only its connection, until the deadline, and the number of connections is limited.
        if self._recorder.in_flight >= self._settings.max_in_flight:
            raise ThrottlingException("The proxy handles as many requests as max_in_flight allows")
        self._recorder.in_flight += 1
        try:
            _require_json(request.headers)
            return await self._operate(path, service, identity, body, deadline, record=record)
        finally:
            self._recorder.in_flight -= 1

    async def _operate(
        self,
        path: ApiPath,
        service: Service,
        identity: Identity,
        body: bytes,
        deadline: Deadline,
        *,
        record: RequestRecord,
    ) -> Message:
        """Decode the body and execute the operation. Policies apply to all operations except GetHealthStatus."""
        match path.operation:
            case Operation.ENCRYPT:
                encryption = decode(EncryptRequest, body)
                record.metadata = received_metadata(body)
                access = service.access_for(path, identity, encryption.request_metadata, record.vpc_endpoint_id)
                self._services.state.require_newest()
                return await encrypt(encryption, path.key_id, access, deadline)
            case Operation.DECRYPT:
                decryption = decode(DecryptRequest, body)
                record.metadata = received_metadata(body)
                access = service.access_for(path, identity, decryption.request_metadata, record.vpc_endpoint_id)
                return await decrypt(decryption, path.key_id, access, deadline)
            case Operation.GET_KEY_METADATA:
                query = decode(GetKeyMetadataRequest, body)
                record.metadata = received_metadata(body)
                access = service.access_for(path, identity, query.request_metadata, record.vpc_endpoint_id)
                return await get_key_metadata(path.key_id, access, deadline)
            case Operation.GET_HEALTH_STATUS:
                decode(GetHealthStatusRequest, body)
                record.metadata = received_metadata(body)
                problem = self._services.state.problem or service.state.problem
                return get_health_status(service.access.engine, self._settings.fleet_size, problem)


def _refuse(record: RequestRecord, error: XksError) -> Response:
    record.refuse(error)
    response = respond.failure(error, authenticated=record.region is not None)
    record.status = response.status
    return response


def _require_json(headers: dict[str, list[str]]) -> None:
    """R-REQ-1; parameters such as a charset may follow."""
    values = headers.get("content-type", [])
    if values == ["application/json"]:
        return
    if len(values) != 1 or values[0].partition(";")[0].strip(" \t").lower() != "application/json":
        raise ValidationException("The request needs exactly one Content-Type header, with the value application/json")


def _place(error: BaseException) -> str:
    """The type of an exception and where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_qualname}:{trace.tb_lineno}" if trace is not None else "unknown"
    return f"{type(error).__name__} in {where}"
