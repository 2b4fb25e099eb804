"""Bodies that came with their head, and such as come later, are read alike."""

import asyncio

import pytest

from xksproxy.deadline import Deadline
from xksproxy.server.body import read_body
from xksproxy.server.http.body import Body
from xksproxy.server.http.errors import BodyMalformed, BodyTooLarge, ClientGone
from xksproxy.server.http.messages import Request
from xksproxy.spec.errors import UnsupportedOperationException, ValidationException


async def body_of(body: Body, seconds: float = 5.0) -> bytes:
    return await read_body(Request("POST", "/", {}, body, None), Deadline.after(seconds))


async def test_a_body_that_came_with_its_head_is_read_without_a_wait() -> None:
    assert await body_of(Body.of(b"onetwo"), seconds=0) == b"onetwo"


async def test_a_body_that_comes_later_is_waited_for_and_the_client_told_once() -> None:
    told: list[bool] = []
    body = Body(lambda: told.append(True))
    asyncio.get_running_loop().call_soon(body.complete, b"later")

    assert await body_of(body) == b"later"
    assert told == [True]


async def test_a_body_that_does_not_come_is_refused_in_time() -> None:
    with pytest.raises(ValidationException, match="did not arrive in time"):
        await body_of(Body(lambda: None), seconds=0.01)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (BodyTooLarge(), UnsupportedOperationException, "above 65536 bytes"),
        (BodyMalformed(), ValidationException, "framed wrongly"),
        (ClientGone(), ValidationException, "client closed the connection"),
    ],
)
async def test_a_body_that_never_becomes_complete_is_refused_whenever_that_shows(
    failure: Exception, error: type[Exception], words: str, *, late: bool
) -> None:
    body = Body(lambda: None)
    if late:
        asyncio.get_running_loop().call_soon(body.fail, failure)
    else:
        body.fail(failure)

    with pytest.raises(error, match=words):
        await body_of(body)
