"""Who is let in, and who has to go for that, at the maximum of connections."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from xksproxy.server.acceptor import Acceptor


@pytest.fixture
def server() -> Any:
    return SimpleNamespace(connections=[], idle_connections=[])


@pytest.fixture
def acceptor(server: Any) -> Acceptor:
    with socket.socket() as listener:
        return Acceptor(listener, lambda: None, server, 3, None)


def shake_hands(acceptor: Acceptor, *, done: bool) -> asyncio.Task[None]:
    """A handshake under way, or one that is done while its task has not run yet."""
    task = asyncio.create_task(asyncio.sleep(3600))
    acceptor._handshakes[task] = SimpleNamespace(transport=object() if done else None)  # type: ignore[assignment]
    return task


async def test_a_handshake_that_is_just_done_is_not_counted_twice(acceptor: Acceptor, server: Any) -> None:
    tasks = [shake_hands(acceptor, done=True) for _ in range(2)]
    server.connections = list(acceptor._handshakes.values())

    assert acceptor._make_room()

    await asyncio.sleep(0)
    assert not any(task.cancelled() for task in tasks)


async def test_of_handshakes_the_oldest_is_given_up_that_is_not_done(acceptor: Acceptor, server: Any) -> None:
    done, first, second = (shake_hands(acceptor, done=is_done) for is_done in (True, False, False))
    server.connections = [acceptor._handshakes[done]]

    assert acceptor._make_room()

    await asyncio.sleep(0)
    assert [task.cancelled() for task in (done, first, second)] == [False, True, False]
