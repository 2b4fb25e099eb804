"""Strangers without credentials, in a process of their own.

    python -m benchmarks.attack PORT SECONDS STRENGTH KIND ...

Everything is bounded: the number of connections of each kind, how many are made in a second, and the time. STRENGTH, at
most 1, is a share of these numbers. Only 127.0.0.1 is attacked.
"""

import asyncio
import math
import socket
import ssl
import struct
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import cycle
from typing import Final

import uvloop

BARE_A_SECOND: Final = 5_000
CONNECTIONS: Final = 2_000
_MADE_A_SECOND: Final = 200
"""Of the kinds that need handshakes: these cost the attacker more than the proxy."""

_MOST_BARE: Final = 4_000
_TICK_SECONDS: Final = 0.01
_PING: Final = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
_HEAD: Final = b"POST /bench/kms/xks/v1/health HTTP/1.1\r\nHost: x\r\nX-Slow: "
_sources: Final = cycle([f"127.0.0.{number}" for number in range(2, 10)])


def _socket() -> socket.socket:
    """One that vanishes without a trace when it is closed, from one of several addresses: ports are many but finite."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    made.bind((next(_sources), 0))
    return made


async def bare(port: int, strength: float) -> None:
    """Connect and say nothing."""
    held: deque[socket.socket] = deque()
    while True:
        for _ in range(int(strength * BARE_A_SECOND * _TICK_SECONDS)):
            made = _socket()
            made.connect_ex(("127.0.0.1", port))
            held.append(made)
        while len(held) > strength * _MOST_BARE:
            held.popleft().close()
        await asyncio.sleep(_TICK_SECONDS)


async def half_open(port: int, strength: float) -> None:
    """Begin a handshake, and do not go on with it."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        _context().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    hello = outgoing.read()

    async def once() -> None:
        loop = asyncio.get_running_loop()
        with _socket() as made:
            await loop.sock_connect(made, ("127.0.0.1", port))
            await loop.sock_sendall(made, hello)
            while await loop.sock_recv(made, 65536):
                pass

    await _keep_up(once, strength)


async def slow_readers(port: int, strength: float) -> None:
    """Ask again and again, and read no answer."""

    async def once() -> None:
        writer = await _connect(port)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not writer.transport.is_closing():
            writer.write(_PING * 20)
            await asyncio.sleep(1)
            if writer.transport.get_write_buffer_size() > len(_PING) * 1000:
                await asyncio.sleep(5)
                break
        writer.transport.abort()

    await _keep_up(once, strength)


async def slow_heads(port: int, strength: float) -> None:
    """Begin a request, and send a byte a second."""

    async def once() -> None:
        writer = await _connect(port)
        writer.write(_HEAD)
        while not writer.transport.is_closing():
            writer.write(b"x")
            await asyncio.sleep(1)

    await _keep_up(once, strength)


async def _connect(port: int) -> asyncio.StreamWriter:
    made = _socket()
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
        _, writer = await asyncio.open_connection(sock=made, ssl=_shared, server_hostname="localhost")
    except BaseException:
        made.close()
        raise
    return writer


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


_shared: Final = _context()


async def _keep_up(once: Callable[[], Awaitable[None]], strength: float) -> None:
    """As many at once as there may be; one that ends is followed by another."""
    running: set[asyncio.Task[None]] = set()

    async def quietly() -> None:
        with suppress(OSError, EOFError):
            await once()

    most = math.ceil(strength * _MADE_A_SECOND * _TICK_SECONDS * 5)
    while True:
        for _ in range(min(most, int(strength * CONNECTIONS) - len(running))):
            task = asyncio.create_task(quietly())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(_TICK_SECONDS * 5)


KINDS: Final[dict[str, Callable[[int, float], Awaitable[None]]]] = {
    "bare": bare,
    "half-open": half_open,
    "slow-readers": slow_readers,
    "slow-heads": slow_heads,
}


async def attack(port: int, seconds: float, strength: float, kinds: list[str]) -> None:
    """Attack by all of these kinds at once."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(KINDS[kind](port, strength) for kind in kinds))


if __name__ == "__main__":
    uvloop.run(attack(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
