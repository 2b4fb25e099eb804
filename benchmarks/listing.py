"""For how long the listing of a large token holds the interpreter, or the event loop.

    python -m benchmarks.listing [--keys 5000] [--times 5]

A thread and the event loop tick once a millisecond, while the keys of a token are listed again and again in the same
process. A pause between two ticks counts as far as this process used a processor meanwhile: other processes of the
machine do not matter. The goal is that none is longer than 5 ms. The exit code is 1 if it is missed.
"""

import asyncio
import gc
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import click
import uvloop

from benchmarks.tokens import prepared
from xksproxy.config.model import Hsm
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.key_listing import KeyListing
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.server.worker import SWITCH_INTERVAL_SECONDS
from xksproxy.state.usage import UsageBook

_TICK_SECONDS: Final = 0.001
_GOAL_SECONDS: Final = 0.005
_QUIET_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 60.0


class Ticks:
    """A thread and a task that wake once a millisecond; the longest pauses between two of their ticks, in seconds."""

    def __init__(self) -> None:
        self.thread_pause = 0.0
        self.loop_pause = 0.0
        self._ended = False

    async def during(self, work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
        """The longest pauses of thread and event loop while some work is done."""
        thread = threading.Thread(target=self._tick)
        thread.start()
        task = asyncio.create_task(self._tick_on_loop())
        await work()
        self._ended = True
        await task
        await asyncio.to_thread(thread.join)
        return self.thread_pause, self.loop_pause

    def _tick(self) -> None:
        last = _Moment()
        while not self._ended:
            time.sleep(_TICK_SECONDS)
            pause, last = last.pause()
            self.thread_pause = max(self.thread_pause, pause)

    async def _tick_on_loop(self) -> None:
        last = _Moment()
        while not self._ended:
            await asyncio.sleep(_TICK_SECONDS)
            pause, last = last.pause()
            self.loop_pause = max(self.loop_pause, pause)


class _Moment:
    """A tick."""

    def __init__(self) -> None:
        self._at, self._used = time.monotonic(), time.process_time()

    def pause(self) -> tuple[float, "_Moment"]:
        """The seconds since then, without what the tick was meant to wait and without other processes; and now."""
        now = _Moment()
        return min(now._at - self._at - _TICK_SECONDS, now._used - self._used), now


async def measure(hsm: Hsm, state: Path, times: int) -> bool:
    """Print the pauses; whether the goal is reached."""
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    instance = Instance(hsm, Modules(PinGuard(state), UsageBook(state)))
    instance.start()
    while not instance.quiet:  # noqa: ASYNC110 - what is waited for knows no event
        await asyncio.sleep(0.1)

    async def list_keys() -> None:
        for _ in range(times):
            started = time.monotonic()
            await KeyListing(hsm.id, instance._pool).begin(_PATIENCE_SECONDS)  # noqa: SLF001 - listings at once
            click.echo(f"{len(instance.keys.labels)} keys listed in {time.monotonic() - started:.2f} s")

    gc.collect()
    gc.freeze()  # as a worker does before it serves
    quiet = await Ticks().during(lambda: asyncio.sleep(_QUIET_SECONDS))
    listing = await Ticks().during(list_keys)
    instance.stop()
    for name, before, during in zip(("thread", "event loop"), quiet, listing, strict=True):
        click.echo(f"{name}: longest pause {1000 * during:.1f} ms, {1000 * before:.1f} ms without the listing")
    return all(during - before <= _GOAL_SECONDS for before, during in zip(quiet, listing, strict=True))


@click.command()
@click.option("--keys", default=5000, show_default=True)
@click.option("--times", default=5, show_default=True, help="Listings.")
@click.option("--tokens", "directory", type=click.Path(path_type=Path), default=Path(".xksproxy-bench"))
def main(keys: int, times: int, directory: Path) -> None:
    """List the keys of a large token, and look for pauses."""
    tokens = prepared(directory)
    with tempfile.TemporaryDirectory(prefix="xksproxy-listing-") as state:
        reached = uvloop.run(measure(tokens.hsm(keys), Path(state), times))
    sys.exit(not reached)


if __name__ == "__main__":
    main()
