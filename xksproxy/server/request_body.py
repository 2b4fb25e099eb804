"""Reads a request body, up to a maximum size and until the deadline."""

import asyncio

from xksproxy.deadline import Deadline
from xksproxy.server.http.errors import BodyMalformed, BodyTooLarge, ClientGone
from xksproxy.server.http.messages import Request
from xksproxy.spec.errors import UnsupportedOperationException, ValidationException
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES


async def read_body(request: Request, deadline: Deadline) -> bytes:
    """Return the body as it was sent, never decompressed, because the signature covers these bytes.

    Raises:
        UnsupportedOperationException: it is above 64 KiB; the rest is not read.
        ValidationException: it did not arrive completely in time, or is framed wrongly.
    """
    if request.body.content is not None:
        # A small body arrives with the head, so there is nothing to wait for.
        return request.body.content
    try:
        async with asyncio.timeout(deadline.remaining()):
            return await request.body.read()
    except TimeoutError:
        raise ValidationException("The request body did not arrive in time") from None
    except BodyMalformed:
        raise ValidationException("The request body is framed wrongly") from None
    except ClientGone:
        raise ValidationException("The client closed the connection before the request body was complete") from None
    except BodyTooLarge:
        raise UnsupportedOperationException(
            f"The request body is above {MAXIMUM_BODY_BYTES} bytes, the most this proxy reads"
        ) from None
