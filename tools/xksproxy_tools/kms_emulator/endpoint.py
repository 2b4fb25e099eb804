"""The HTTP endpoint. It takes POST / with X-Amz-Target, and answers in AWS JSON 1.1."""

import json
import logging
import uuid
from collections.abc import Callable
from typing import Final

from aiohttp import web

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.expiry import Expiry
from xksproxy_tools.kms_emulator.operations import Operations
from xksproxy_tools.kms_emulator.protocol.caller import Callers
from xksproxy_tools.kms_emulator.protocol.model import KmsModel
from xksproxy_tools.kms_emulator.request import KmsRequest

_log: Final = logging.getLogger(__name__)

_CONTENT_TYPE: Final = "application/x-amz-json-1.1"
_MAXIMUM_BODY_BYTES: Final = 1024 * 1024


class Endpoint:
    """Translates HTTP requests to KMS requests, and results to HTTP responses."""

    def __init__(
        self,
        model: KmsModel,
        callers: Callers,
        operations: Operations,
        expiry: Expiry,
        new_request_id: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._model = model
        self._callers = callers
        self._operations = operations
        self._expiry = expiry
        self._new_request_id = new_request_id

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(client_max_size=_MAXIMUM_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._answer)
        return application

    async def _answer(self, http_request: web.Request) -> web.Response:
        request_id = str(self._new_request_id())
        target = http_request.headers.get("X-Amz-Target", "")
        fields = {"request_id": request_id, "target": target}
        try:
            body = await self._execute(http_request, target, request_id)
        except KmsError as error:
            # The cause is what a proxy or cluster did. The log shows it to the operator; the caller never sees it.
            cause = {"cause": str(error.__cause__)} if error.__cause__ else {}
            refusal = {"exception_name": error.name, "reason": error.message, **cause}
            _log.info("request refused", extra={"fields": {**fields, **refusal}})
            return _failure(error, request_id)
        except Exception:  # noqa: BLE001 - the client must get a valid error for every failure
            _log.exception("request failed in an unexpected way", extra={"fields": fields})
            return _failure(KmsError("KMSInternalException", "The emulator failed; see its log"), request_id)
        _log.info("request answered", extra={"fields": fields})
        return _response(web.HTTPOk.status_code, body, request_id)

    async def _execute(self, http_request: web.Request, target: str, request_id: str) -> bytes:
        operation = target.removeprefix(self._model.target_prefix)
        if (http_request.method, http_request.path) != ("POST", "/") or target == operation:
            expected = f"expected POST / with X-Amz-Target: {self._model.target_prefix}<operation>"
            raise KmsError("UnknownOperationException", expected)
        if operation not in self._model.operations:
            raise KmsError("UnknownOperationException", f"KMS has no operation {operation}")
        caller = self._callers.identify(http_request.headers.get("Authorization"))
        parameters = self._model.parse(operation, await _read(http_request))
        await self._expiry.delete_due_keys()
        request = KmsRequest(request_id, operation, caller, parameters)
        return self._model.render(operation, await self._operations.execute(request))


async def _read(http_request: web.Request) -> bytes:
    try:
        return await http_request.read()
    except web.HTTPRequestEntityTooLarge:
        raise KmsError("SerializationException", f"a request has at most {_MAXIMUM_BODY_BYTES} bytes") from None


def _failure(error: KmsError, request_id: str) -> web.Response:
    body = json.dumps({"__type": error.name, "message": error.message}).encode()
    return _response(error.status, body, request_id)


def _response(status: int, body: bytes, request_id: str) -> web.Response:
    headers = {"x-amzn-RequestId": request_id, "Content-Type": _CONTENT_TYPE}
    return web.Response(status=status, body=body, headers=headers)
