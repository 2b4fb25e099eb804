"""What a key store gets of a slow HSM while others ask for more than the HSM can do.

    PYTHONPATH=tests python -m benchmarks.neighbours [--latency 5 ...] [--tenants 2 ...] [--factor 8 ...] [--seconds 6]

The module waits before each C_Encrypt. One key store asks for 80 % of its share at regular intervals. All others
together ask for 0.5 to 8 times what the sessions can do, as from many callers. What they can do is measured first, by a
key store alone that asks for twice as much. All is read from the proxy's audit log. The goals:

- the key store that asks for less than its share gets at least 99 % good answers;
- all together, and a key store alone, get at least 90 % of the smaller of offered and capacity;
- no HSM leaves service, no session is stuck.

The exit code is 1 if a goal is missed.
"""

import asyncio
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec
from fault_support import FaultyHsm
from xksproxy_tools.load.arrivals import schedule
from xksproxy_tools.load.dispatch import Dispatcher
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.measure import open_dispatcher, run
from xksproxy_tools.load.plan import Arrivals, Destination, Plan
from xksproxy_tools.load.requests import RequestMaker
from xksproxy_tools.load.signing import SignedPool

from benchmarks import servers
from benchmarks.overload import Answer, faulty_hsms, trouble
from benchmarks.servers import Server, Setting
from benchmarks.tokens import prepared

SESSIONS: Final = {5: 1, 20: 2}
"""Sessions by the time of a call in ms, so that the processors of a usual machine are not the limit."""

FACTORS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_SHARE: Final = 0.8
_LESS: Final = 0.95
_GOOD: Final = 0.99
_GOODPUT: Final = 0.9
_CALM_SECONDS: Final = 2.0
_SETTLED_SECONDS: Final = 0.5
_DISTINCT: Final = 64
_OK: Final = 200
_PLAN: Final = Plan(connections=64, cdiv_percent=0)


class StoreAnswer(Answer, frozen=True):
    """A line of the audit log, with the key store that was asked."""

    keystore: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """What some key stores ask for, in requests a second, all together."""

    stores: Sequence[Destination]
    rate: float
    arrivals: Arrivals


class Neighbours:
    """A proxy with several key stores on one slow HSM."""

    def __init__(self, server: Server, home: Path, *dispatchers: Dispatcher) -> None:
        self._server = server
        self._home = home
        self._dispatchers = dispatchers

    async def load(self, seconds: float, *offers: Offer) -> dict[str, list[StoreAnswer]]:
        """The answers to the requests of so many seconds, by key store."""
        began = time.time()
        async with asyncio.TaskGroup() as group:
            for dispatcher, offer in zip(self._dispatchers, offers, strict=False):
                pool = SignedPool(RequestMaker(_PLAN, offer.stores).encrypts(_DISTINCT))
                due = schedule(offer.arrivals, offer.rate, seconds, seed=round(offer.rate))
                group.create_task(Load(dispatcher, pool, time.monotonic()).run_open(due))
        await asyncio.sleep(_SETTLED_SECONDS)
        return self._answers(began, began + seconds)

    def _answers(self, began: float, ended: float) -> dict[str, list[StoreAnswer]]:
        decode = msgspec.json.Decoder(StoreAnswer).decode
        found: dict[str, list[StoreAnswer]] = {}
        for line in (self._home / "audit.log").read_bytes().splitlines():
            answer = decode(line)
            if answer.status and answer.keystore is not None and began <= answer.arrived_at < ended:
                found.setdefault(answer.keystore, []).append(answer)
        return found


def _good(answers: Iterable[StoreAnswer]) -> int:
    return sum(answer.status == _OK for answer in answers)


def _statuses(answers: Iterable[StoreAnswer]) -> str:
    counts = Counter(answer.status for answer in answers)
    return " ".join(f"{status}: {count}" for status, count in sorted(counts.items()))


async def measure(
    server: Server, home: Path, hsm: FaultyHsm, milliseconds: int, *, factors: Sequence[float], seconds: float
) -> list[str]:
    """Measure one number of key stores at one latency; the goals that were missed."""
    first, *others = server.destinations
    missed: list[str] = []
    async with (
        open_dispatcher(first.target, _PLAN) as for_first,
        open_dispatcher(first.target, _PLAN) as for_others,
    ):
        neighbours = Neighbours(server, home, for_first, for_others)
        hsm.tell(f"C_Encrypt delay {milliseconds}")
        for each in server.destinations:
            await neighbours.load(0.5, Offer([each], 20, Arrivals.FIXED))
        nominal = hsm.hsm.sessions * 1000 / milliseconds
        found = await neighbours.load(seconds, Offer([first], 2 * nominal, Arrivals.POISSON))
        capacity = _good(found["store-0"]) / seconds
        missed += [f"alone {capacity / nominal:.0%}"] * (capacity < _GOODPUT * nominal)
        click.echo(f"{milliseconds:3} ms, {len(server.destinations):3} key stores, one alone gets {capacity:.0f}/s")
        modest = Offer([first], _SHARE * capacity / len(server.destinations), Arrivals.FIXED)
        for factor in factors:
            await asyncio.sleep(_CALM_SECONDS)
            greedy = Offer(others, factor * capacity, Arrivals.POISSON)
            found = await neighbours.load(seconds, modest, greedy)
            answers = found.pop("store-0", [])
            problems = _row(answers, found, factor, min(capacity, modest.rate + greedy.rate) * seconds)
            missed += problems
    return missed + trouble(home)


def _row(
    answers: Sequence[StoreAnswer], others: dict[str, list[StoreAnswer]], factor: float, possible: float
) -> list[str]:
    """Print a line of the table; the goals that were missed. ``possible``: good answers of all key stores together."""
    rest = [answer for each in others.values() for answer in each]
    good = _good(answers) / max(1, len(answers))
    in_all = _good(answers) + _good(rest)
    late = sorted(answer.ms for answer in answers)
    # Refusing much takes processors too; then there may be less to share than the HSM alone would allow.
    asks_less = in_all >= _GOODPUT * possible or len(answers) < _LESS * in_all / (1 + len(others))
    problems = [f"{good:.1%} of the modest one"] * (asks_less and good < _GOOD)
    problems += [f"goodput {in_all / possible:.0%}"] * (in_all < _GOODPUT * possible)
    click.echo(
        f"  others x {factor:<3g} good {_good(answers)} of {len(answers)} ({good:.1%}), p99"
        f" {late[math.floor(0.99 * (len(late) - 1))]:.0f} ms;  goodput {in_all / possible:.0%};"
        f"  others {_statuses(rest)}  {'' if asks_less else 'it asked for more than its share'}"
        f"  {'MISSED: ' + ', '.join(problems) if problems else ''}"
    )
    return problems


@click.command()
@click.option("--latency", "latencies", multiple=True, type=int, default=tuple(SESSIONS), help="ms of a call.")
@click.option("--tenants", multiple=True, type=int, default=(2, 10), show_default=True, help="Key stores.")
@click.option("--factor", "factors", multiple=True, type=float, default=FACTORS, help="Of the capacity.")
@click.option("--seconds", default=6.0, show_default=True, help="Of each load.")
def main(latencies: tuple[int, ...], tenants: tuple[int, ...], factors: tuple[float, ...], seconds: float) -> None:
    """Ask one slow HSM for more than it can do, through some key stores, and for little through another."""
    missed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="xksproxy-neighbours-") as directory:
        top = Path(directory)
        tokens = prepared(top, [1])
        for milliseconds in latencies:
            for count in tenants:
                name = f"{milliseconds}-{count}"
                (hsm,) = faulty_hsms(tokens, top / f"hsm-{name}", [SESSIONS[milliseconds]])
                setting = Setting(hsms=(hsm.hsm,), key_stores=count)
                with servers.proxy(tokens, top / name, setting) as server:
                    missed += run(measure(server, top / name, hsm, milliseconds, factors=factors, seconds=seconds))
    click.echo(f"{len(missed)} goals missed")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
