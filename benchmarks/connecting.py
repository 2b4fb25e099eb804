"""How long a proxy takes to reach an HSM that connects slowly, and what that costs the other HSM.

    PYTHONPATH=tests python -m benchmarks.connecting [--function C_Login] [--seconds 3] [--workers 2] [--always]

In each start one function of one of two HSMs takes so long: C_Login each time, another one the first time in each
process, or each time with --always. Encrypts come all the while. The goals:

- each worker serves with that HSM within that time, for C_Login times the number of workers because the log-ins to a
  token take turns, plus 2 s, plus what a start without a delay takes; with --always the time is reported only;
- no worker is replaced, and every request is answered within the deadline.

The exit code is 1 if a goal is missed.
"""

import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, Final

import click
from xksproxy_tools.load.measure import open_dispatcher, run
from xksproxy_tools.load.plan import Plan
from xksproxy_tools.load.requests import RequestMaker

from benchmarks import servers
from benchmarks.overload import faulty_hsms
from benchmarks.servers import Server, Setting
from benchmarks.tokens import Tokens, prepared
from xksproxy.hsm.instance.instance import State

FUNCTIONS: Final = (
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_Login",
    "C_GetSessionInfo",
    "C_GenerateRandom",
    "C_GenerateKey",
    "C_EncryptInit",
    "C_Decrypt",
)
_SESSIONS: Final = (4, 4)
_PAUSE_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 2.0
_PATIENCE_SECONDS: Final = 120.0
_LATE_SECONDS: Final = 0.21
"""The deadline of a request, and 10 ms."""

_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Delay:
    """What takes long in one start."""

    function: str
    seconds: float
    workers: int
    always: bool

    @property
    def rule(self) -> str:
        """For the fault module."""
        times = "" if self.always or self.function == "C_Login" else " count=1"
        return f"{self.function} delay {1000 * self.seconds:.0f}{times}"

    @property
    def allowed_seconds(self) -> float:
        """What it may add to a start."""
        return self.seconds * (self.workers if self.function == "C_Login" else 1) + _GRACE_SECONDS


@dataclass(slots=True)
class Start:
    """What was seen of a start."""

    seconds: float = 0.0
    """From the first line of the log until each worker served with each HSM."""

    statuses: Counter[int] = field(default_factory=Counter)
    late: int = 0
    replaced: int = 0

    def missed(self, delay: Delay, undelayed: float) -> Iterator[str]:
        """The goals that were missed."""
        if not delay.always and self.seconds - undelayed > delay.allowed_seconds:
            yield f"{self.seconds - undelayed:.1f} s, allowed {delay.allowed_seconds:.1f} s"
        if self.replaced:
            yield f"{self.replaced} workers replaced"
        if set(self.statuses) - {_OK}:
            yield f"answers {dict(self.statuses)}"
        if self.late:
            yield f"{self.late} late answers"


async def watch(server: Server, workers: int, log: Path) -> Start:
    """Send Encrypts one after another, until each worker serves with each HSM."""
    plan, found, pids = Plan(connections=1, cdiv_percent=0), Start(), server.workers()
    began = _first_time(log)
    (request,) = RequestMaker(plan, server.destinations).encrypts(1)
    async with open_dispatcher(server.destinations[0].target, plan) as dispatcher:
        while not await asyncio.to_thread(_all_serve, server.admin, workers):
            if time.time() - began > _PATIENCE_SECONDS:
                found.statuses[0] += 1
                break
            request.sign()
            sent = time.monotonic()
            try:
                found.statuses[(await dispatcher.exchange(request)).status] += 1
            except ConnectionError:
                found.statuses[0] += 1
            found.late += time.monotonic() - sent > _LATE_SECONDS
            await asyncio.sleep(_PAUSE_SECONDS)
    found.seconds = time.time() - began
    found.replaced = len(set(pids) - set(server.workers()))
    return found


def _first_time(log: Path) -> float:
    """When the proxy wrote its first line, before it has started its workers; seconds since 1970.

    How long the interpreter needs to import everything before that says nothing about HSMs.
    """
    with log.open() as lines:
        return datetime.fromisoformat(json.loads(lines.readline())["time"]).timestamp()


def _all_serve(admin: int, workers: int) -> bool:
    """Whether each worker serves with each HSM, by what they said half a second ago at most."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/status", timeout=_PATIENCE_SECONDS) as answer:
            hsms: list[dict[str, Any]] = json.loads(answer.read())["hsms"]
    except OSError:  # the worker that was to answer is gone, which is counted
        return False
    return len(hsms) == len(_SESSIONS) and all(
        hsm["state"] == State.SERVING.value and hsm["workers_served"] == workers for hsm in hsms
    )


def measure(tokens: Tokens, home: Path, delay: Delay | None, workers: int) -> Start:
    """One start, with a delay in the second HSM or without."""
    home.mkdir()
    hsms = faulty_hsms(tokens, home / "hsms", _SESSIONS)
    if delay is not None:
        hsms[1].tell(delay.rule)
    setting = Setting(exposed=("key-0000",), workers=workers, hsms=tuple(item.hsm for item in hsms))
    try:
        with servers.proxy(tokens, home / "proxy", setting) as server:
            return run(watch(server, workers, home / "proxy" / "log"))
    finally:
        hsms[1].tell()


@click.command()
@click.option("--function", "functions", multiple=True, default=FUNCTIONS, help="Of PKCS#11.")
@click.option("--seconds", "durations", multiple=True, type=float, default=(1, 3, 5, 10, 30), show_default=True)
@click.option("--workers", "counts", multiple=True, type=int, default=(1, 2, 8, 16), show_default=True)
@click.option("--always", is_flag=True, help="Delay each call of the function.")
def main(functions: tuple[str, ...], durations: tuple[float, ...], counts: tuple[int, ...], *, always: bool) -> None:
    """Start a proxy again and again, while one function of one HSM takes long."""
    missed = False
    with tempfile.TemporaryDirectory(prefix="xksproxy-connecting-") as directory:
        home = Path(directory)
        tokens = prepared(home, [1])
        for workers in counts:
            undelayed = measure(tokens, home / f"undelayed-{workers}", None, workers).seconds
            click.echo(f"{workers} workers without a delay: each serves with both HSMs after {undelayed:.1f} s")
            for function, seconds in product(functions, durations):
                delay = Delay(function, seconds, workers, always)
                found = measure(tokens, home / f"{function}-{seconds:g}-{workers}", delay, workers)
                problems = list(found.missed(delay, undelayed))
                click.echo(
                    f"{workers:2} workers, {function} {seconds:g} s: {found.seconds:5.1f} s,"
                    f" {dict(found.statuses)}  {'MISSED: ' + ', '.join(problems) if problems else ''}"
                )
                missed = missed or bool(problems)
    sys.exit(missed)


if __name__ == "__main__":
    main()
