"""What an HSM answers when more is asked than it can do.

    PYTHONPATH=tests python -m benchmarks.overload [--latency 5 ...] [--hsms 1 ...] [--seconds 4] [--workers 1]

The module waits before each C_Encrypt and C_Decrypt. Requests come as from many callers, at 0.5 to 4 times what the
sessions can do; then at half of it. All is read from the proxy's audit log. The goals:

- at least 90 % of the smaller of offered and capacity is answered, and no answer comes 10 ms after the deadline;
- whatever else is ThrottlingException, at the median within 50 ms; at most 1 % is DependencyTimeoutException, for
  calls that had begun; none is InternalException;
- no HSM leaves service, no session is stuck, no worker is replaced;
- from 1 s after the overload everything is answered.

With integrity values each request is two calls; the HSM of 100 ms is left out then, as two of its calls take as long as
the deadline. Last, one of two HSMs is slow, and the other has to do the work: p99 below 40 ms.
The exit code is 1 if a goal is missed.
"""

import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import msgspec
from fault_support import FaultyHsm, compile_fault_module, make_faulty_hsm
from xksproxy_tools.load.arrivals import schedule
from xksproxy_tools.load.dispatch import Dispatcher
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.measure import open_dispatcher, run
from xksproxy_tools.load.plan import Arrivals, Plan
from xksproxy_tools.load.requests import EncryptRequest, Request, RequestMaker
from xksproxy_tools.load.signing import SignedPool

from benchmarks import servers
from benchmarks.servers import Server, Setting
from benchmarks.tokens import Tokens, prepared

SESSIONS: Final = {5: 2, 20: 4, 50: 8, 100: 8}
"""Sessions by the time of a call in ms, so that processors of a usual machine are not the limit; over all HSMs."""

FACTORS: Final = (0.5, 1.0, 1.5, 2.0, 4.0)
_DEADLINE_MS: Final = 200.0
_GOODPUT: Final = 0.9
_LATE_MS: Final = 10.0
_REFUSED_WITHIN_MS: Final = 50.0
_RECOVERED_AFTER_SECONDS: Final = 1.0
_CALM_SECONDS: Final = 3.0
_CALM_FACTOR: Final = 0.5
_OTHER_P99_MS: Final = 40.0
_SLOW_MS: Final = 100
_FAST_MS: Final = 5
_CONNECTIONS: Final = 128
_SETTLED_SECONDS: Final = 0.5
"""For the audit log to be written."""

_DISTINCT: Final = 64
_OK: Final = 200
_THROTTLED: Final = 429
_TIMED_OUT: Final = 503
_TIMED_OUT_SHARE: Final = 0.01
_TROUBLE: Final = ("HSM out of service", "HSM unavailable", "does not return")


class Answer(msgspec.Struct, frozen=True):
    """A line of the audit log: when the request was answered, how, and after how many milliseconds."""

    time: str
    status: int = 0
    ms: float = 0.0

    @property
    def arrived_at(self) -> float:
        """Seconds since 1970."""
        return datetime.fromisoformat(self.time).timestamp() - self.ms / 1000


@dataclass(frozen=True, slots=True)
class Phase:
    """The answers to requests that arrived in one span of time."""

    seconds: float
    answers: Sequence[Answer]

    @property
    def good(self) -> float:
        """Answers 200 a second."""
        return sum(answer.status == _OK for answer in self.answers) / self.seconds

    @property
    def statuses(self) -> Counter[int]:
        """How many there are of each status."""
        return Counter(answer.status for answer in self.answers)

    def percentile(self, share: float, status: int | None = None) -> float:
        """Of the milliseconds until the answer; 0 if there is none."""
        times = sorted(answer.ms for answer in self.answers if status in (None, answer.status))
        return times[min(len(times) - 1, math.floor(share * len(times)))] if times else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """What is measured: an overload of HSMs of one latency."""

    milliseconds: int
    hsms: int
    factor: float
    capacity: float
    """Requests a second that the sessions can do."""

    def missed(self, overload: Phase, calm: Phase) -> Iterator[str]:
        """The goals that were missed."""
        if (goodput := self._goodput(overload)) < _GOODPUT:
            yield f"goodput {goodput:.0%}"
        for status, count in overload.statuses.items():
            allowed = _TIMED_OUT_SHARE * len(overload.answers) if status == _TIMED_OUT else 0
            if status not in (_OK, _THROTTLED) and count > allowed:
                yield f"{count} x {status}"
        if (refused := overload.percentile(0.5, _THROTTLED)) > _REFUSED_WITHIN_MS:
            yield f"refused after {refused:.0f} ms"
        if (slowest := overload.percentile(1)) > _DEADLINE_MS + _LATE_MS:
            yield f"an answer after {slowest:.0f} ms"
        for status, count in calm.statuses.items():
            if status != _OK:
                yield f"{count} x {status} after the overload"

    def _goodput(self, overload: Phase) -> float:
        """The share of what was offered, or of the capacity if that is smaller."""
        return overload.good / min(self.capacity, len(overload.answers) / overload.seconds)

    def row(self, overload: Phase) -> str:
        """A line of the table."""
        statuses = " ".join(f"{status}: {count}" for status, count in sorted(overload.statuses.items()))
        return (
            f"{self.hsms} x {self.milliseconds:3} ms  x {self.factor:<3g} of {self.capacity:4.0f}/s"
            f"  goodput {self._goodput(overload):5.0%}"
            f"  refused p50 {overload.percentile(0.5, _THROTTLED):5.1f} ms"
            f"  p99 {overload.percentile(0.99):5.0f} max {overload.percentile(1):5.0f} ms  {statuses}"
        )


class Overload:
    """A proxy in front of slow HSMs, and requests for it."""

    def __init__(self, server: Server, home: Path, hsms: Sequence[FaultyHsm], dispatcher: Dispatcher) -> None:
        self._server = server
        self._home = home
        self._hsms = hsms
        self._dispatcher = dispatcher
        self._pool = SignedPool([])

    async def prepare(self, plan: Plan, *, verified: bool) -> None:
        """Make requests: Encrypts with integrity values, or else Encrypts and Decrypts in turn."""
        encrypts = RequestMaker(plan, self._server.destinations).encrypts(_DISTINCT)
        requests: list[Request] = []
        for request in encrypts:
            requests += [request] if verified else [request, await self._inverse(request)]
        self._pool = SignedPool(requests)

    async def _inverse(self, request: EncryptRequest) -> Request:
        request.sign()
        response = await self._dispatcher.exchange(request)
        return request.inverse(response.body)

    def slow_down(self, *milliseconds: int) -> None:
        """Make the calls of each HSM take so long."""
        for hsm, each in zip(self._hsms, milliseconds, strict=True):
            hsm.tell(f"C_Encrypt delay {each}", f"C_Decrypt delay {each}")

    async def load(self, rate: float, seconds: float) -> tuple[float, float]:
        """So many requests a second for so long; begin and end, in seconds since 1970."""
        load = Load(self._dispatcher, self._pool, time.monotonic())
        began = time.time()
        await load.run_open(schedule(Arrivals.POISSON, rate, seconds, seed=round(rate)))
        return began, began + seconds

    def phase(self, began: float, ended: float) -> Phase:
        """What the audit log says of the requests that arrived in that time."""
        decode = msgspec.json.Decoder(Answer).decode
        answers = [decode(line) for line in (self._home / "audit.log").read_bytes().splitlines()]
        within = [answer for answer in answers if answer.status and began <= answer.arrived_at < ended]
        return Phase(ended - began, within)


def trouble(home: Path) -> list[str]:
    """What the log of the proxy in ``home`` says of HSMs out of service and sessions that are stuck."""
    text = (home / "log").read_text()
    return [f"{text.count(what)} x {what!r}" for what in _TROUBLE if what in text]


def faulty_hsms(tokens: Tokens, home: Path, sessions: Sequence[int]) -> list[FaultyHsm]:
    """HSMs with so many sessions each, that misbehave on command."""
    home.mkdir()
    module = compile_fault_module(home)
    like = tokens.hsm(1)
    copies = tokens.home(1) / "tokens"
    return [
        make_faulty_hsm(home, f"hsm-{number}", module, copies, msgspec.structs.replace(like, sessions=count))
        for number, count in enumerate(sessions)
    ]


async def measure(
    server: Server, home: Path, hsms: Sequence[FaultyHsm], points: Sequence[Point], *, seconds: float, verified: bool
) -> list[str]:
    """Run the points, each followed by a calm; the goals that were missed."""
    plan = Plan(connections=_CONNECTIONS, cdiv_percent=100 * verified)
    workers, missed = server.workers(), []
    async with open_dispatcher(server.destinations[0].target, plan) as dispatcher:
        overload = Overload(server, home, hsms, dispatcher)
        await overload.prepare(plan, verified=verified)
        overload.slow_down(*(point.milliseconds for point in points[:1] for _ in hsms))
        await overload.load(_CALM_FACTOR * points[0].capacity, _CALM_SECONDS)
        for point in points:
            times = await overload.load(point.factor * point.capacity, seconds)
            began, ended = await overload.load(_CALM_FACTOR * point.capacity, _CALM_SECONDS)
            time.sleep(_SETTLED_SECONDS)  # noqa: ASYNC251 - nothing else runs
            found = overload.phase(*times)
            problems = list(point.missed(found, overload.phase(began + _RECOVERED_AFTER_SECONDS, ended)))
            click.echo(f"{point.row(found)}  {'MISSED: ' + ', '.join(problems) if problems else ''}")
            missed += problems
    problems = trouble(home)
    if server.workers() != workers:
        problems.append("a worker was replaced")
    for problem in problems:
        click.echo(f"  MISSED: {problem}")
    return missed + problems


async def one_slow(server: Server, home: Path, hsms: Sequence[FaultyHsm], seconds: float) -> list[str]:
    """Half of what the fast HSM can do, while the other is slow; the goals that were missed."""
    plan = Plan(connections=_CONNECTIONS, cdiv_percent=0)
    async with open_dispatcher(server.destinations[0].target, plan) as dispatcher:
        overload = Overload(server, home, hsms, dispatcher)
        await overload.prepare(plan, verified=False)
        overload.slow_down(_SLOW_MS, _FAST_MS)
        rate = _CALM_FACTOR * hsms[1].hsm.sessions * 1000 / _FAST_MS
        await overload.load(rate, 2)
        times = await overload.load(rate, seconds)
        time.sleep(_SETTLED_SECONDS)  # noqa: ASYNC251 - nothing else runs
        found = overload.phase(*times)
    p99, failed = found.percentile(0.99), len(found.answers) - found.statuses[_OK]
    click.echo(f"one of two HSMs slow: p50 {found.percentile(0.5):.1f} ms, p99 {p99:.1f} ms, {failed} not answered")
    return [f"p99 {p99:.0f} ms"] * (p99 > _OTHER_P99_MS) + [f"{failed} not answered"] * (failed > 0)


@click.command()
@click.option("--latency", "latencies", multiple=True, type=int, default=tuple(SESSIONS), help="ms of a call.")
@click.option("--hsms", "counts", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--seconds", default=4.0, show_default=True, help="Of each overload.")
@click.option("--workers", default=1, show_default=True)
@click.option("--verified/--plain", "kinds", default=None, help="Only with, or only without integrity values.")
def main(
    latencies: tuple[int, ...], counts: tuple[int, ...], seconds: float, workers: int, *, kinds: bool | None
) -> None:
    """Overload a proxy whose HSMs are slow."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="xksproxy-overload-") as directory:
        top = Path(directory)
        tokens = prepared(top, [1])
        for verified in (False, True) if kinds is None else (kinds,):
            click.echo("Encrypts with integrity values" if verified else "Encrypts and Decrypts")
            for milliseconds in latencies:
                if verified and 2 * milliseconds >= _DEADLINE_MS:
                    continue
                for count in counts:
                    sessions = [SESSIONS[milliseconds] // count] * count
                    capacity = workers * sum(sessions) * 1000 / milliseconds / (2 if verified else 1)
                    points = [Point(milliseconds, count, factor, capacity) for factor in FACTORS]
                    name = f"{verified}-{count}-{milliseconds}"
                    hsms = faulty_hsms(tokens, top / f"hsms-{name}", sessions)
                    setting = Setting(hsms=tuple(item.hsm for item in hsms), workers=workers)
                    with servers.proxy(tokens, top / name, setting) as server:
                        missed += run(measure(server, top / name, hsms, points, seconds=seconds, verified=verified))
        hsms = faulty_hsms(tokens, top / "hsms-one-slow", (4, 4))
        setting = Setting(hsms=tuple(item.hsm for item in hsms), workers=workers)
        with servers.proxy(tokens, top / "one-slow", setting) as server:
            missed += run(one_slow(server, top / "one-slow", hsms, seconds))
    click.echo(f"{len(missed)} goals missed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
