"""A connection: one request after another, each answered and the answer taken before more is read."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from xksproxy.server.http import tls_connection
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.http.connection_table import Stage
from xksproxy.server.http.listener import Listener
from xksproxy.server.http.messages import Request, Response

PATIENCE = 30.0
PING = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(request: Request) -> Response:
    """The target and the body."""
    return Response(200, request.target.encode() + await request.body.read())


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Status, head and content of the next answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    return int(head.split()[1]), head, await reader.readexactly(length)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_requests_that_come_together_are_handled_one_at_a_time_and_answered_in_order(serving: Any) -> None:
    running, most = 0, 0

    async def slow_first(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05 if request.target == "/0" else 0)
        running -= 1
        return Response(200, request.target.encode())

    async with serving(slow_first) as front:
        reader, writer = await front.connect()
        writer.write(b"".join(PING % number for number in range(20)))
        assert [(await answer(reader))[2] for _ in range(20)] == [b"/%d" % number for number in range(20)]
        writer.close()
    assert most == 1


async def test_a_request_is_answered_before_the_garbage_behind_it_is_refused(serving: Any) -> None:
    async with serving(echo) as front:
        reader, writer = await front.connect()
        writer.write(PING % 1 + b"garbage\r\n\r\n")
        assert (await answer(reader))[::2] == (200, b"/1")
        status, head, content = await answer(reader)
        assert (status, b"Connection: close" in head, b"ValidationException" in content) == (400, True, True)
        assert await reader.read() == b""
        writer.close()


async def test_who_sends_and_never_reads_costs_one_answer_and_what_came_with_it(serving: Any) -> None:
    """The answers of a client that does not read them do not pile up: it is not read either."""
    handled = 0

    async def large(_: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200, bytes(50_000))

    async with serving(large) as front:
        _, writer = await front.connect(limit=1)
        writer.transport.pause_reading()
        writer.write(PING % 1 * 200_000)
        await until(lambda: any(member._unsent for member in front.service.table))
        before = -1
        while before != handled:  # until the buffers of both systems are full
            before = handled
            await asyncio.sleep(0.5)
        assert handled < 1000
        (member,) = front.service.table
        assert member._transport.get_write_buffer_size() <= 64 * 1024
        assert member._reader.pending <= 32 * 1024
        assert not member._transport.is_reading()
        writer.transport.abort()


async def test_an_answer_that_is_not_taken_in_time_ends_the_connection(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_connection, "WRITE_SECONDS", 0.1)

    async def large(_: Request) -> Response:
        return Response(200, bytes(60_000))

    async with serving(large) as front:
        _, writer = await front.connect(limit=1)
        writer.transport.pause_reading()
        writer.write(PING % 1 * 10_000)
        await until(lambda: any(member._unsent for member in front.service.table))
        await until(lambda: len(front.service.table) == 0)
        writer.transport.abort()


async def test_a_client_that_reads_again_is_served_on(serving: Any) -> None:
    async def large(request: Request) -> Response:
        return Response(200, request.target.encode() + bytes(50_000))

    async with serving(large) as front:
        reader, writer = await front.connect(limit=100_000)
        writer.transport.pause_reading()
        writer.write(b"".join(PING % number for number in range(300)))
        await until(lambda: any(member._unsent for member in front.service.table))
        writer.transport.resume_reading()
        for number in range(300):
            assert (await answer(reader))[2].rstrip(b"\x00") == b"/%d" % number
        writer.close()


async def test_what_was_asked_before_the_client_stopped_sending_is_answered(serving: Any) -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.1)
        return Response(200, b"late")

    async with serving(slow) as front:
        raw = socket.create_connection(("127.0.0.1", front.port))

        def ask() -> bytes:
            with front.client_context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=True) as tls:
                tls.sendall(PING % 1)
                raw_shutdown(tls)
                received = b""
                while data := tls.recv(1000):
                    received += data
                return received

        def raw_shutdown(tls: ssl.SSLSocket) -> None:
            socket.socket.shutdown(tls, socket.SHUT_WR)

        assert (await asyncio.to_thread(ask)).endswith(b"late")


async def test_a_body_that_is_refused_before_it_came_does_not_become_the_next_request(serving: Any) -> None:
    async def hasty(request: Request) -> Response:
        return Response(404, request.target.encode())

    smuggled = PING % 2
    async with serving(hasty) as front:
        reader, writer = await front.connect()
        writer.write(b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(smuggled))
        assert (await answer(reader))[::2] == (404, b"/1")
        writer.write(smuggled + PING % 3)
        assert (await answer(reader))[::2] == (404, b"/3")
        writer.close()


@pytest.mark.parametrize(
    "body",
    [b"Content-Length: 65537\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"Connection: close\r\n\r\n"],
)
async def test_after_the_last_answer_the_client_is_told_and_what_it_still_sends_is_dropped(
    serving: Any, body: bytes
) -> None:
    async def hasty(_: Request) -> Response:
        return Response(400, b"{}")

    async with serving(hasty) as front:
        reader, writer = await front.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + body)
        assert b"Connection: close\r\n" in (await answer(reader))[1]
        assert await reader.read() == b""
        with suppress(OSError):
            for _ in range(20):
                writer.write(bytes(10_000))
                await writer.drain()
        writer.close()
        await until(lambda: len(front.service.table) == 0)


async def test_draining_lets_handshakes_finish_and_answers_what_comes_with_them(serving: Any) -> None:
    """A TLS 1.3 client sends its request together with the end of its handshake."""
    async with serving(echo) as front:
        hello, rest = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = front.client_context.wrap_bio(rest, hello, server_hostname="localhost")
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        writer.write(hello.read())
        await until(lambda: front.service.table.count(Stage.HANDSHAKE) == 1)

        front.service.draining = True
        await front.listener.stop_accepting(in_all_processes=True)
        draining = asyncio.create_task(front.listener.drain(PATIENCE))
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", front.port)

        while not _done(tls):
            rest.write(await asyncio.wait_for(reader.read(65536), PATIENCE))
        tls.write(PING % 7)
        writer.write(hello.read())
        received = b""
        while not received.endswith(b"/7"):
            rest.write(await asyncio.wait_for(reader.read(65536), PATIENCE))
            with suppress(ssl.SSLWantReadError):
                received += tls.read(65536)
        assert b"Connection: close\r\n" in received
        writer.close()
        await asyncio.wait_for(draining, PATIENCE)


def _done(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


async def test_no_connection_begins_any_more_when_all_processes_stop_accepting(serving: Any) -> None:
    """One that comes between the last accept and the end of the socket would be reset."""
    async with serving(echo) as front:
        stopping = asyncio.create_task(front.listener.stop_accepting(in_all_processes=True))
        await asyncio.sleep(0)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            async with asyncio.timeout(0.1):
                await asyncio.open_connection("127.0.0.1", front.port)
        await stopping


async def test_connections_of_other_processes_begin_when_only_this_one_stops_accepting(serving: Any) -> None:
    async with serving(echo) as front:
        with socket.create_server(("127.0.0.1", 0)) as other:
            listener = Listener(other.dup(), front.service, ConnectionCounts())
            listener.start()
            await listener.stop_accepting(in_all_processes=False)
            _, writer = await asyncio.open_connection(*other.getsockname())
            writer.close()


async def test_who_has_connected_before_the_socket_is_closed_is_served(serving: Any) -> None:
    async with serving(echo) as front:
        sockets = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(20)]
        await front.listener.stop_accepting(in_all_processes=True)

        async def ask(raw: socket.socket) -> int:
            raw.setblocking(False)
            reader, writer = await asyncio.open_connection(
                sock=raw, ssl=front.client_context, server_hostname="localhost"
            )
            writer.write(PING % 1)
            status = (await answer(reader))[0]
            writer.close()
            return status

        assert await asyncio.gather(*map(ask, sockets)) == [200] * 20


async def test_a_signed_request_makes_a_stranger_a_client(serving: Any) -> None:
    async def signed(request: Request) -> Response:
        return Response(200, b"", authenticated=request.target == "/1")

    async with serving(signed) as front:
        reader, writer = await front.connect()
        for number, stage in ((0, Stage.STRANGER), (1, Stage.CLIENT), (0, Stage.CLIENT)):
            writer.write(PING % number)
            await answer(reader)
            await until(lambda stage=stage: front.service.table.count(stage) == 1)
        writer.close()


async def test_a_handler_that_fails_ends_its_connection_alone(serving: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(request: Request) -> Response:
        if request.target == "/1":
            raise RuntimeError("a bug")
        return Response(200, b"")

    async with serving(failing) as front:
        reader, writer = await front.connect()
        writer.write(PING % 1)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        reader, writer = await front.connect()
        writer.write(PING % 0)
        assert (await answer(reader))[0] == 200
        writer.close()
    assert "could not be answered" in caplog.text
