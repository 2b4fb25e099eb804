import asyncio
from typing import Any

import pytest
from xksproxy_tools.load.connections import Connections
from xksproxy_tools.load.http_connection import Connection, Response

from xksproxy.client.target import Target
from xksproxy.sigv4.keyring import generate_credential

_TARGET = Target("proxy.example", 443, "", "eu-west-1", generate_credential())


class _Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


class _Owner:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def answered(self, connection: Connection, response: Response) -> None:
        raise AssertionError("nobody asked")

    def lost(self, connection: Connection, reason: str) -> None:
        self.reasons.append(reason)


@pytest.mark.parametrize(("lost", "idle"), [(False, 1), (True, 0)], ids=["open", "lost"])
async def test_a_connection_that_is_lost_before_it_is_handed_over_is_not_used(
    monkeypatch: pytest.MonkeyPatch, lost: bool, idle: int
) -> None:
    async def create_connection(factory: Any, *_: Any, **__: Any) -> tuple[None, Connection]:
        connection = factory()
        connection.connection_made(_Transport())
        if lost:
            connection.connection_lost(None)
        return None, connection

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    owner = _Owner()
    connections = Connections(_TARGET, 1, owner, lambda: None)

    await connections.open()

    assert len(connections.idle) == idle
    assert len(owner.reasons) == 1 - idle


@pytest.mark.parametrize("made", [True, False], ids=["its handshake has ended", "its handshake goes on"])
async def test_a_connection_that_is_being_made_is_closed_with_the_others(
    monkeypatch: pytest.MonkeyPatch, made: bool
) -> None:
    """A transport that is left open outlives the event loop, which then fails."""
    begun: list[Connection] = []
    transport = _Transport()

    async def create_connection(factory: Any, *_: Any, **__: Any) -> None:
        begun.append(factory())
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    connections = Connections(_TARGET, 1, _Owner(), lambda: None)
    connections.replace("lost")
    await asyncio.sleep(0)

    if made:
        begun[0].connection_made(transport)
    connections.close()
    if not made:
        begun[0].connection_made(transport)

    assert transport.aborted
