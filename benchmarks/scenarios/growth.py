"""(m) What grows with the number of key stores, keys, credentials, policies and blocks."""

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import growth
from benchmarks.growth import Cost
from benchmarks.results import Finding, Goal, Table
from benchmarks.workbench import Scenario, Workbench

_COLUMNS: Final = (
    "number of",
    "",
    "ready s",
    "MiB a worker",
    "idle, of a core",
    "µs an Encrypt",
    "p50 ms",
    "p99 ms",
    "stop s",
    "failed",
)
_IDLE: Final = 0.03
_REQUEST_RATIO: Final = 1.3
_READY_SECONDS: Final = 5.0
_MEMORY_MIB: Final = 60.0
_STOP_SECONDS: Final = 2.0


def _run(workbench: Workbench) -> Finding:
    rows: list[tuple[str, ...]] = []
    goals: list[Goal] = []
    for kind in growth.KINDS:
        # A quick test takes the two smallest numbers.
        sizes = kind.sizes if workbench.share >= 1 else kind.sizes[:2]
        costs = list(growth.measure(workbench.tokens, workbench.new_directory, kind, sizes))
        rows += [_row(kind.name, cost) for cost in costs]
        goals += goals_of(kind.name, costs)
    return Finding([Table(_COLUMNS, rows)], goals)


def _row(name: str, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        f"{cost.size:,}",
        f"{cost.ready:.1f}",
        f"{cost.memory:.0f}",
        f"{cost.idle:.1%}",
        f"{cost.request_us:,.0f}",
        f"{cost.p50:.1f}",
        f"{cost.p99:.1f}",
        f"{cost.stop:.1f}",
        f"{cost.failed}",
    )


def goals_of(name: str, costs: Sequence[Cost]) -> Iterator[Goal]:
    """What the largest number may cost, beside the smallest."""
    least, most = costs[0], costs[-1]
    what = f"{most.size:,} {name}"
    ratio = most.request_us / least.request_us
    more = most.memory - least.memory
    for text, found, reached in (
        ("idle at most 3 % of a core", f"{most.idle:.1%}", most.idle <= _IDLE),
        ("an Encrypt costs at most 1.3 times that with one", f"{ratio:.2f}", ratio <= _REQUEST_RATIO),
        ("ready at most 5 s later", f"{most.ready - least.ready:.1f} s", most.ready - least.ready <= _READY_SECONDS),
        ("at most 60 MiB more a worker", f"{more:.0f} MiB", more <= _MEMORY_MIB),
        ("stopped at most 2 s later", f"{most.stop - least.stop:.1f} s", most.stop - least.stop <= _STOP_SECONDS),
        ("none failed", f"{most.failed}", not most.failed),
    ):
        yield Goal(f"{what}: {text}", found, reached=reached)


SCENARIO: Final = Scenario(
    "growth",
    "What grows with the number of things",
    "Two workers. Idle is processor time while nobody calls, after 15 s. Then one client sends Encrypts one after"
    " another; µs an Encrypt is processor time of all processes, without what they take when idle. Keys were used once"
    " each before.",
    _run,
)
