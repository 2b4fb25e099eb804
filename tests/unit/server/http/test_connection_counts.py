"""Connections are spread evenly over the workers that accept from one socket."""

import asyncio
import copy
import socket
from typing import Any

import pytest
from fault_support import until

from xksproxy.server.http import listener
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.http.messages import Request, Response


def places(number: int) -> list[ConnectionCounts]:
    """What as many workers inherit. The processes have the numbers 1, 2, …"""
    master = ConnectionCounts()
    workers = []
    for pid in range(1, number + 1):
        master.prepare()
        master.started(pid)
        workers.append(copy.copy(master))
    return [*workers, master]


def test_another_has_fewer_while_one_that_accepts_has_fewer() -> None:
    one, two, _ = places(2)
    one.set(3)
    assert not one.another_has_fewer()
    two.set(2)
    assert one.another_has_fewer()
    assert not two.another_has_fewer()
    two.set(3)
    assert not one.another_has_fewer()


def test_a_worker_that_accepts_nothing_does_not_count() -> None:
    one, two, _ = places(2)
    one.set(3)
    two.set(0)
    assert one.another_has_fewer()
    two.set(None)
    assert not one.another_has_fewer()


def test_the_place_of_a_worker_that_has_ended_is_used_again() -> None:
    one, two, master = places(2)
    one.set(3)
    two.set(0)
    master.ended(2)
    assert not one.another_has_fewer()
    for pid in range(3, 3000):
        master.prepare()
        master.started(pid)
        master.ended(pid)
    master.prepare()
    successor = copy.copy(master)
    successor.set(1)
    assert one.another_has_fewer()


def test_more_processes_than_places_are_not_balanced() -> None:
    *_, first, last, _ = places(1024)
    first.set(0)
    last.set(5)
    assert not last.another_has_fewer()


def test_a_process_that_has_no_place_is_not_balanced() -> None:
    counts = ConnectionCounts()
    counts.set(5)
    assert not counts.another_has_fewer()


async def answer(_: Request) -> Response:
    return Response(200, b"")


async def open_connections(number: int, port: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(number)]


async def close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
        await writer.wait_closed()


async def test_connections_are_spread_evenly(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_OTHERS_FIRST_SECONDS", 1)  # on a busy machine, 2 ms pass before the other's turn
    one, two, _ = places(2)
    with socket.create_server(("127.0.0.1", 0)) as shared:
        async with (
            serving(answer, listening=shared.dup(), counts=one) as front,
            serving(answer, listening=shared.dup(), counts=two) as other,
        ):
            writers = await open_connections(40, front.port)
            await until(lambda: len(front.service.table) + len(other.service.table) == 40)
            assert 15 <= len(front.service.table) <= 25
            await close(writers)


async def test_connections_are_accepted_although_a_worker_with_fewer_does_not_accept(serving: Any) -> None:
    one, two, _ = places(2)
    two.set(0)
    async with serving(answer, counts=one) as front:
        writers = await open_connections(40, front.port)
        await until(lambda: len(front.service.table) == 40)
        await close(writers)


async def test_the_count_falls_when_a_connection_ends(serving: Any) -> None:
    one, two, _ = places(2)
    two.set(1)
    async with serving(answer, counts=one) as front:
        writers = await open_connections(2, front.port)
        await until(lambda: len(front.service.table) == 2)
        await asyncio.sleep(0.1)  # the pause in which others may accept is over
        assert one.another_has_fewer()
        await close(writers[:1])
        await until(lambda: not one.another_has_fewer())
        await close(writers[1:])
