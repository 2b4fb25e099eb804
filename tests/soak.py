"""Minutes of load on two HSMs while faults come and go and workers are killed; `./dev soak` runs it whole.

At any time one of the two HSMs works: the next fault waits until both do. So every answer must be right and in time,
except on connections that a killed worker cut. Then come phases of their own; see :mod:`soak_phases`.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from soak_phases import PHASES, run_phase
from soak_proxy import Footprint, Outcome, SoakProxy

LATENCY_BOUND_MS = 250
"""Above this KMS has given up (R-TIME-1)."""

_POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""The threads for what blocks come one by one, as they are needed, and stay."""

FAULTS = (
    "C_Encrypt hang",
    "C_Decrypt hang",
    "* return 0x30",
    "* return 0x30 rate=0.3",
    "C_EncryptInit return 0x5 count=20",
    "C_Decrypt return 0x6 rate=0.2",
    "C_EncryptInit return 0x31 rate=0.5",
    "C_EncryptInit return 0xb3 rate=0.3",
    "C_DecryptInit return 0x82 count=10",
    "C_Encrypt delay 60",
    "C_Decrypt delay 150 rate=0.5",
    "drop",
    "absent",
    "C_Encrypt segfault",
)
"""What may happen to one of the HSMs; each stands for a while and goes."""


class Trouble:
    """Faults of the HSMs and kills of the workers, at random."""

    def __init__(self, proxy: SoakProxy, seed: int) -> None:
        self._proxy = proxy
        self._random = random.Random(seed)

    async def during(self, seconds: float, rate: float) -> None:
        """Load for so long, while all of it happens; until both HSMs serve again."""
        tasks = [asyncio.create_task(self._break_hsms()), asyncio.create_task(self._kill_workers())]
        await self._proxy.load(seconds, rate)
        for task in tasks:
            task.cancel()
        for hsm in self._proxy.hsms:
            hsm.tell()
        await self._proxy.recovered()

    async def _break_hsms(self) -> None:
        """One HSM at a time gets a fault, for half a second to three; then a pause, and until both work."""
        while True:
            victim, fault = self._random.choice(self._proxy.hsms), self._random.choice(FAULTS)
            self._proxy.outcome.faults[fault] += 1
            victim.tell(fault)
            await asyncio.sleep(self._random.uniform(0.5, 3))
            victim.tell()
            await asyncio.sleep(self._random.uniform(1.5, 3))
            await self._proxy.until(self._proxy.all_serve)

    async def _kill_workers(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(4, 8))
            pids = self._proxy.workers()
            if len(pids) > 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._random.choice(pids), signal.SIGKILL)
                self._proxy.outcome.kills += 1


def report(outcome: Outcome, before: Footprint, after: Footprint) -> str:
    """The summary as a table."""
    rows = [
        ("answers", sum(outcome.statuses.values())),
        *sorted(outcome.statuses.items()),
        ("connections cut", outcome.cut),
        ("workers killed", outcome.kills),
        ("faults", sum(outcome.faults.values())),
        *((f"latency {name} ms", f"{outcome.percentile(share):.1f}") for name, share in _PERCENTILES),
        ("latency max ms", f"{max(outcome.latencies_ms):.1f}"),
        *((f"worker {name}, before → after", f"{_of(before, name)} → {_of(after, name)}") for name in _FOOTPRINT),
    ]
    return "\n".join([*(f"{name:36} {value}" for name, value in rows), *outcome.notes])


_PERCENTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
_FOOTPRINT = ("rss_mib", "threads", "descriptors")


def _of(footprint: Footprint, name: str) -> str:
    value = getattr(footprint, name)
    return f"{value:.0f}"


def problems(
    outcome: Outcome, before: Footprint, after: Footprint, *, latency_bound_ms: float | None = LATENCY_BOUND_MS
) -> list[str]:
    """What was not as it must be. Without ``latency_bound_ms`` nothing depends on how fast the machine is."""
    found = [f"{count} x {what}" for what, count in Counter(outcome.wrong).items()]
    if latency_bound_ms is not None and outcome.percentile(0.999) > latency_bound_ms:
        found.append(f"p99.9 is {outcome.percentile(0.999):.0f} ms, above {latency_bound_ms:.0f}")
    if (
        after.rss_mib > 1.3 * before.rss_mib
        or after.threads > before.threads + _POOL_THREADS
        or after.workers != before.workers
    ):
        found.append(f"a worker grew: {before} → {after}")
    return found


async def soak(
    directory: Path,
    seconds: float,
    rate: float,
    seed: int,
    deadline_ms: int | None = None,
    *,
    phases: Iterable[str] = (),
) -> tuple[Outcome, Footprint, Footprint]:
    """Load for so long, at so many round trips of Encrypt and Decrypt a second; the footprints before and after.

    It is run in a new directory. ``deadline_ms``: see :class:`SoakProxy`. The phases come after that.
    """
    proxy = SoakProxy(directory, deadline_ms)
    async with proxy.running():
        await proxy.load(3, rate)
        before = proxy.footprint()
        outcome = proxy.outcome = Outcome()
        if seconds:
            await Trouble(proxy, seed).during(seconds, rate)
        for phase in phases:
            await run_phase(proxy, rate, phase)
        proxy.outcome = Outcome()
        await proxy.load(3, rate)
        outcome.wrong += proxy.outcome.wrong
        return outcome, before, proxy.footprint()


def main() -> int:
    """The command line of `./dev soak`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=100, help="round trips a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline-ms", type=int, help="of requests, for a busy machine; then no latency is judged")
    parser.add_argument("--phase", action="append", choices=PHASES, help="only this phase; may be repeated")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome, before, after = asyncio.run(
            soak(
                Path(directory),
                arguments.seconds,
                arguments.rate,
                arguments.seed,
                arguments.deadline_ms,
                phases=arguments.phase or PHASES,
            )
        )
    print(report(outcome, before, after))  # noqa: T201 - its purpose
    bound = LATENCY_BOUND_MS if arguments.deadline_ms is None else None
    found = problems(outcome, before, after, latency_bound_ms=bound)
    print("\n".join(f"PROBLEM: {item}" for item in found) or "every answer was right and in time")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
