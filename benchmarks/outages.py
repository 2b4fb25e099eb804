"""How much a worker grows by outages of its HSM.

    PYTHONPATH=tests python -m benchmarks.outages [--times 20] [--sessions 16]

In an outage every call fails and all sessions are gone, until the HSM is out of service; then it returns, and requests
are answered on all sessions. The goal is that the worker grows by at most 5 MiB. The exit code is 1 if it is missed.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Final

import click
from fault_support import FaultyHsm
from xksproxy_tools.load.dispatch import Dispatcher
from xksproxy_tools.load.measure import open_dispatcher, run
from xksproxy_tools.load.plan import Plan
from xksproxy_tools.load.requests import EncryptRequest, RequestMaker

from benchmarks import processes, servers
from benchmarks.overload import faulty_hsms
from benchmarks.servers import Server, Setting
from benchmarks.tokens import prepared

_AT_ONCE: Final = 64
_ROUNDS: Final = 5
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_GOAL_MIB: Final = 5.0


class Outages:
    """A proxy of one worker, its HSM, and requests for it."""

    def __init__(self, server: Server, hsm: FaultyHsm, dispatcher: Dispatcher, plan: Plan) -> None:
        self._server = server
        self._hsm = hsm
        self._dispatcher = dispatcher
        self._requests = RequestMaker(plan, server.destinations).encrypts(_AT_ONCE)
        (self._worker,) = server.workers()

    def resident(self) -> float:
        """MiB of the worker."""
        return processes.memory(self._worker).resident

    async def outage(self) -> None:
        """One outage, and its end."""
        self._hsm.tell("* return 0x30", "drop")
        while self._serves():
            await self._ask_once()
        self._hsm.tell()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not self._serves():  # noqa: ASYNC110 - what is waited for knows no event
                await asyncio.sleep(_POLL_SECONDS)
        await self.ask()

    async def ask(self) -> None:
        """Some requests, so many at once that every session gets some."""
        for _ in range(_ROUNDS):
            await self._ask_once()

    async def _ask_once(self) -> None:
        await asyncio.gather(*(self._exchange(request) for request in self._requests))

    async def _exchange(self, request: EncryptRequest) -> None:
        request.sign()
        await self._dispatcher.exchange(request)

    def _serves(self) -> bool:
        return servers.is_ready(self._server.admin)


async def measure(server: Server, hsm: FaultyHsm, times: int) -> float:
    """MiB by which the worker has grown after so many outages."""
    plan = Plan(connections=_AT_ONCE, give_up_after=_PATIENCE_SECONDS)
    async with open_dispatcher(server.destinations[0].target, plan) as dispatcher:
        outages = Outages(server, hsm, dispatcher, plan)
        await outages.ask()
        before = outages.resident()
        for number in range(times):
            await outages.outage()
            click.echo(f"outage {number + 1}: {outages.resident():.1f} MiB, {before:.1f} before")
        return outages.resident() - before


@click.command()
@click.option("--times", default=20, show_default=True, help="Outages.")
@click.option("--sessions", default=16, show_default=True)
def main(times: int, sessions: int) -> None:
    """Let an HSM fail again and again, and watch the worker's memory."""
    with tempfile.TemporaryDirectory(prefix="xksproxy-outages-") as directory:
        home = Path(directory)
        tokens = prepared(home, [1])
        (hsm,) = faulty_hsms(tokens, home / "hsms", (sessions,))
        with servers.proxy(tokens, home / "proxy", Setting(hsms=(hsm.hsm,))) as server:
            grown = run(measure(server, hsm, times))
    click.echo(f"grown by {grown:.1f} MiB in {times} outages with {sessions} sessions")
    sys.exit(grown > _GOAL_MIB)


if __name__ == "__main__":
    main()
