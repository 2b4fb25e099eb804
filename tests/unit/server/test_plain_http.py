"""The plain HTTP listeners while their worker stops."""

import asyncio
import socket

from aiohttp import web
from fault_support import until

from xksproxy.server.plain_http import PlainListener


async def test_a_connection_that_was_accepted_before_the_stop_gets_its_answer() -> None:
    async def handle(_: web.BaseRequest) -> web.Response:
        return web.Response(text="ready")

    listening = socket.create_server(("127.0.0.1", 0))
    listener = PlainListener(listening, handle)
    await listener.start()
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    await until(lambda: bool(listener._handler.connections))

    stopping = asyncio.create_task(listener.stop())
    await asyncio.sleep(0.01)
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert (await reader.read()).endswith(b"ready")
    await stopping
    writer.close()
    await writer.wait_closed()
