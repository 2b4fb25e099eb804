"""Whether a proxy that stops or replaces its workers loses a request.

    ./dev bench drains
    python -m benchmarks.drains [--rate 500] [--times 20] [--kept]

Requests come at a steady rate, each on a new TLS connection or on kept ones. Meanwhile the proxy is told to stop by
SIGTERM, and started again, or to replace its workers by SIGHUP. Lost is a request that fails after its TCP connection
was made; one that is refused because nobody listens is none. The exit code is 1 if one is lost.
"""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import click
import uvloop

from benchmarks import servers
from benchmarks.servers import Server, Setting
from benchmarks.signed_requests import post
from benchmarks.tokens import Tokens, prepared
from xksproxy.client.target import Target

_KEPT: Final = 20
_PATIENCE_SECONDS: Final = 20.0
_REPLACED_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05
_CLOSE_SECONDS: Final = 0.1
"""For connections that were given up to be gone."""

_BODY: Final = json.dumps({"requestMetadata": {"kmsRequestId": "drains", "kmsOperation": "KmsHealthCheck"}}).encode()

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Tally:
    """What became of the requests."""

    answered: int = 0
    refused: int = 0
    """Nobody listened."""

    lost: Counter[str] = field(default_factory=Counter)


class Load:
    """Requests at a steady rate, until it is told to end."""

    def __init__(self, target: Target, context: ssl.SSLContext, rate: float, *, kept: bool) -> None:
        self.tally = Tally()
        self._target = target
        self._context = context
        self._rate = rate
        self._kept = kept
        self._idle: list[Connection] = []
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, ended: asyncio.Event) -> None:
        """Send, and see each request through to its end."""
        due = time.monotonic()
        while not ended.is_set():
            task = asyncio.create_task(self._request())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*self._running)
        for _, writer in self._idle:
            writer.transport.abort()
        await asyncio.sleep(_CLOSE_SECONDS)

    async def _request(self) -> None:
        connection = self._idle.pop() if self._kept and self._idle else None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                if connection is None:
                    connection = await self._connect()
                if connection is None:
                    self.tally.refused += 1
                    return
                stays = await self._ask(*connection)
        except (OSError, EOFError, ValueError) as error:
            if connection is not None:
                connection[1].transport.abort()
            self.tally.lost[f"{type(error).__name__}: {error}"] += 1
            return
        self.tally.answered += 1
        if stays and self._kept and len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection[1].transport.abort()

    async def _connect(self) -> Connection | None:
        """None if nobody listens."""
        made = socket.socket()
        try:
            made.setblocking(False)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._target.port))
        except BaseException as error:
            made.close()
            if isinstance(error, ConnectionRefusedError):
                return None
            raise
        return await asyncio.open_connection(sock=made, ssl=self._context, server_hostname=self._target.host)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection stays."""
        target = self._target
        path = f"{target.path_prefix}/kms/xks/v1/health"
        head = await post(reader, writer, target, path, _BODY)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(head.partition(b"\r\n")[0].decode())
        return b"\r\nConnection: close\r\n" not in head


async def under_load(load: Load, do: Callable[[], Awaitable[None]]) -> Tally:
    """What becomes of requests while something is done that begins after a second."""
    ended = asyncio.Event()
    running = asyncio.create_task(load.run(ended))
    await asyncio.sleep(1)
    try:
        await do()
    finally:
        ended.set()
        await running
    return load.tally


async def stop(pid: int) -> None:
    """Send SIGTERM, and wait until the process has ended."""
    os.kill(pid, signal.SIGTERM)
    while not _ended(pid):  # noqa: ASYNC110 - another's process
        await asyncio.sleep(_POLL_SECONDS)


async def replace_workers(server: Server, config: Path) -> None:
    """Change ``[[hsm]]``, send SIGHUP, and wait until all workers are others."""
    before = set(server.workers())
    text = config.read_text("utf-8")  # noqa: ASYNC240 - a moment
    sessions = int(re.findall(r"(?m)^sessions = (\d+)$", text)[0])
    config.write_text(  # noqa: ASYNC240 - a moment
        re.sub(r"(?m)^sessions = \d+$", f"sessions = {7 - sessions}", text), "utf-8"
    )
    os.kill(server.pid or 0, signal.SIGHUP)
    async with asyncio.timeout(_REPLACED_SECONDS):
        while before & set(server.workers()) or len(server.workers()) < len(before):  # noqa: ASYNC110 - another's processes
            await asyncio.sleep(_POLL_SECONDS)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def drained(tokens: Tokens, home: Path, rate: float, times: int, *, kept: bool) -> Iterator[tuple[str, list[Tally]]]:
    """Stop a proxy of two workers so many times, then replace its workers as often, in new directories below ``home``.

    Yields the name of the signal, and what became of the requests each time.
    """
    context = ssl.create_default_context(cafile=tokens.authority)

    def measured(server: Server, do: Callable[[], Awaitable[None]]) -> Tally:
        return uvloop.run(under_load(Load(server.destinations[0].target, context, rate, kept=kept), do))

    stopped = []
    for number in range(times):
        with servers.proxy(tokens, home / f"stopped-{number}", Setting(workers=2)) as server:
            stopped.append(measured(server, partial(stop, server.pid or 0)))
    yield "SIGTERM", stopped
    with servers.proxy(tokens, home / "replaced", Setting(workers=2)) as server:
        config = home / "replaced" / "xksproxy.toml"
        replaced = [measured(server, lambda: replace_workers(server, config)) for _ in range(times)]
    yield "SIGHUP", replaced


def total(tallies: Sequence[Tally]) -> Tally:
    """The sum of tallies."""
    return Tally(
        sum(tally.answered for tally in tallies),
        sum(tally.refused for tally in tallies),
        sum((tally.lost for tally in tallies), Counter[str]()),
    )


@click.command()
@click.option("--rate", default=500.0, show_default=True, help="Requests a second.")
@click.option("--times", default=20, show_default=True, help="SIGTERMs, and SIGHUPs.")
@click.option("--kept", is_flag=True, help="On kept connections, instead of a new one for each request.")
def main(rate: float, times: int, *, kept: bool) -> None:
    """Stop a proxy of two workers, and replace its workers, under load."""
    nothing_lost = True
    with tempfile.TemporaryDirectory(prefix="xksproxy-drains-") as directory:
        home = Path(directory)
        for name, tallies in drained(prepared(home, [1]), home, rate, times, kept=kept):
            sums = total(tallies)
            click.echo(
                f"{times:3} {name:8} answered {sums.answered:7}   nobody listened {sums.refused:6}"
                f"   lost {sums.lost.total():4}"
            )
            for reason, number in sums.lost.most_common(5):
                click.echo(f"    {number:5}  {reason}")
            nothing_lost = nothing_lost and not sums.lost
    sys.exit(not nothing_lost)


if __name__ == "__main__":
    main()
