"""Whether a proxy that has just said it is ready answers everything.

    PYTHONPATH=tests python -m benchmarks.starts [--times 30] [--requests 48]

Each start has two HSMs, two workers and an empty state directory. The first requests come all at once, as soon as
/readyz says 200. The exit code is 1 if one of them is not answered with 200.
"""

import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import click
from xksproxy_tools.load.measure import open_dispatcher, run
from xksproxy_tools.load.plan import Plan
from xksproxy_tools.load.requests import RequestMaker

from benchmarks import servers
from benchmarks.overload import faulty_hsms
from benchmarks.servers import Server, Setting
from benchmarks.tokens import prepared

_SESSIONS: Final = (4, 4)
_WORKERS: Final = 2
_OK: Final = 200


async def first_requests(server: Server, count: int) -> Counter[int]:
    """Send so many Encrypts at once, each on a connection of its own; the statuses."""
    plan = Plan(connections=count)
    requests = RequestMaker(plan, server.destinations).encrypts(count)
    for request in requests:
        request.sign()
    async with open_dispatcher(server.destinations[0].target, plan) as dispatcher:
        responses = await asyncio.gather(*(dispatcher.exchange(request) for request in requests))
    return Counter(response.status for response in responses)


@click.command()
@click.option("--times", default=30, show_default=True, help="Starts.")
@click.option("--requests", "count", default=48, show_default=True, help="First requests of each start.")
def main(times: int, count: int) -> None:
    """Start a proxy again and again, and send requests as soon as it is ready."""
    statuses = Counter[int]()
    with tempfile.TemporaryDirectory(prefix="xksproxy-starts-") as directory:
        home = Path(directory)
        tokens = prepared(home, [1])
        hsms = faulty_hsms(tokens, home / "hsms", _SESSIONS)
        setting = Setting(exposed=("key-0000",), workers=_WORKERS, hsms=tuple(item.hsm for item in hsms))
        for number in range(times):
            with servers.proxy(tokens, home / f"start-{number}", setting) as server:
                found = run(first_requests(server, count))
            click.echo(f"start {number + 1}: ready after {server.started_in:.1f} s, {dict(found)}")
            statuses += found
    click.echo(f"{times} starts: {dict(statuses)}")
    sys.exit(set(statuses) != {_OK})


if __name__ == "__main__":
    main()
