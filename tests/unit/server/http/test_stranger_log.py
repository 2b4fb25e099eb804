"""Connections that cannot be served do not fill the log."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from support import eventually

from xksproxy.server.http import stranger_log as module
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.stranger_log import StrangerLog


class Clock:
    def __init__(self) -> None:
        self.now = 6000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == message]  # type: ignore[attr-defined]


def test_fifty_of_a_minute_have_lines_and_the_rest_is_summed_up_after_it(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = StrangerLog()
    given = []
    for number in range(60):
        given.append(log.has_line("no TLS connection", reason="HTTP_REQUEST", peer=f"192.0.2.{number}"))
        log.beat()
    assert not log.has_line("bad HTTP", reason="no method", peer="2001:db8::1")

    assert given == [True] * 50 + [False] * 10
    assert lines(caplog, "connections summed up") == []
    clock.now += 60
    log.beat()
    log.beat()
    assert lines(caplog, "connections summed up") == [
        {"event": "no TLS connection", "peer_network": "192.0.2.0/24", "reason": "HTTP_REQUEST", "count": 10},
        {"event": "bad HTTP", "peer_network": "2001:db8::/64", "reason": "no method", "count": 1},
    ]
    assert log.has_line("no TLS connection", reason="HTTP_REQUEST", peer="192.0.2.1")


async def test_a_flood_without_tls_has_fifty_lines_and_connect_and_close_none(
    serving: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def handle(_: Request) -> Response:
        raise AssertionError

    async with serving(handle) as front:

        def connect(data: bytes) -> None:
            with socket.create_connection(("127.0.0.1", front.port)) as client:
                client.sendall(data)
                while client.recv(1000):
                    pass

        def close_at_once() -> None:
            socket.create_connection(("127.0.0.1", front.port)).close()

        loop = front.service.loop
        for _ in range(20):
            await loop.run_in_executor(None, close_at_once)
        for _ in range(70):
            await loop.run_in_executor(None, connect, b"GET / HTTP/1.1\r\n\r\n")
        await loop.run_in_executor(None, lambda: eventually(lambda: len(front.service.table) == 0))
        front.service.log.write_sums()

    assert (
        len(lines(caplog, "no TLS connection"))
        + sum(fields["count"] for fields in lines(caplog, "connections summed up"))
        == 70
    )
    assert len(lines(caplog, "no TLS connection")) <= 100  # of two minutes at most
    assert {fields["reason"] for fields in lines(caplog, "no TLS connection")} == {"HTTP_REQUEST"}
