"""Reading a request body under a byte cap and a deadline."""

import asyncio
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestPayloadError

from xksproxy.deadline import Deadline
from xksproxy.spec.errors import UnsupportedOperationException, ValidationException
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_body(request: web.BaseRequest, deadline: Deadline) -> bytes:
    """The body as sent, never decompressed: it is what the signature covers.

    Raises:
        UnsupportedOperationException: it is above 64 KiB; the rest is not read.
        ValidationException: it did not arrive in time, or is framed wrongly.
    """
    try:
        if request.content.is_eof():
            # All of it came with the head, as a small body does: there is nothing to wait for.
            return _bounded(request.content.read_nowait())
        if (request.content_length or 0) > MAXIMUM_BODY_BYTES:
            raise _too_large()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(_CONTINUE)
        async with asyncio.timeout(deadline.remaining()):
            return await _collect(request.content)
    except TimeoutError:
        raise ValidationException("The request body did not arrive in time") from None
    except RequestPayloadError:
        raise ValidationException("The request body is framed wrongly") from None


async def _collect(content: StreamReader) -> bytes:
    chunks: list[bytes] = []
    length = 0
    while chunk := await content.readany():
        chunks.append(chunk)
        length += len(chunk)
        if length > MAXIMUM_BODY_BYTES:
            raise _too_large()
    return b"".join(chunks)


def _bounded(body: bytes) -> bytes:
    if len(body) > MAXIMUM_BODY_BYTES:
        raise _too_large()
    return body


def _too_large() -> UnsupportedOperationException:
    return UnsupportedOperationException(
        f"The request body is above {MAXIMUM_BODY_BYTES} bytes, the most this proxy reads"
    )
