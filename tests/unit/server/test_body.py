"""Bodies that came with their head, and such as come later, are read alike."""

import asyncio
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from aiohttp.web_protocol import RequestPayloadError

from xksproxy.deadline import Deadline
from xksproxy.server.body import read_body
from xksproxy.spec.errors import UnsupportedOperationException, ValidationException
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES


async def request_with(*chunks: bytes, ended: bool = True, headers: dict[str, str] | None = None) -> web.BaseRequest:
    """A request of which so much has come; the rest comes a moment later, if it has not ended."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(Mock())
    payload = StreamReader(protocol, MAXIMUM_BODY_BYTES, loop=loop)
    for chunk in chunks:
        payload.feed_data(chunk)
    if ended:
        payload.feed_eof()
    return make_mocked_request("POST", "/", headers=headers, payload=payload, transport=Mock())


async def body_of(request: web.BaseRequest, seconds: float = 5.0) -> bytes:
    return await read_body(request, Deadline.after(seconds))


async def test_a_body_that_came_with_its_head_is_all_its_chunks() -> None:
    assert await body_of(await request_with(b"one", b"two")) == b"onetwo"
    assert await body_of(await request_with()) == b""


async def test_a_body_that_comes_later_is_waited_for() -> None:
    request = await request_with(b"one", ended=False)
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, request.content.feed_data, b"two")
    loop.call_later(0.02, request.content.feed_eof)

    assert await body_of(request) == b"onetwo"


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("chunks", [(b"x" * (MAXIMUM_BODY_BYTES + 1),), (b"x" * MAXIMUM_BODY_BYTES, b"x")])
async def test_one_byte_too_many_is_refused_whenever_it_came(chunks: tuple[bytes, ...], *, ended: bool) -> None:
    with pytest.raises(UnsupportedOperationException, match="above 65536 bytes"):
        await body_of(await request_with(*chunks, ended=ended))


async def test_the_largest_body_is_read_whether_it_came_with_its_head_or_not() -> None:
    largest = b"x" * MAXIMUM_BODY_BYTES
    late = await request_with(largest, ended=False)
    asyncio.get_running_loop().call_later(0.01, late.content.feed_eof)

    assert await body_of(await request_with(largest)) == await body_of(late) == largest


async def test_a_body_that_is_announced_as_too_large_is_refused_unread() -> None:
    request = await request_with(b"x", ended=False, headers={"Content-Length": str(MAXIMUM_BODY_BYTES + 1)})

    with pytest.raises(UnsupportedOperationException):
        await body_of(request)
    assert request.content.total_bytes == 1


async def test_a_body_that_does_not_come_is_refused_in_time() -> None:
    with pytest.raises(ValidationException, match="did not arrive in time"):
        await body_of(await request_with(b"x", ended=False), seconds=0.05)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_body_that_is_framed_wrongly_is_refused(*, ended: bool) -> None:
    request = await request_with(b"x", ended=ended)
    request.content.set_exception(RequestPayloadError("framing"))

    with pytest.raises(ValidationException, match="framed wrongly"):
        await body_of(request)
