"""(l) Requests that are lost while a proxy stops or replaces its workers."""

from typing import Final

from benchmarks import drains
from benchmarks.results import Finding, Goal, Table
from benchmarks.workbench import Scenario, Workbench

_RATE: Final = 500.0
_TIMES: Final = 20


def _run(workbench: Workbench) -> Finding:
    rows, goals = [], []
    for kept in (False, True):
        home = workbench.new_directory()
        connections = "kept connections" if kept else "new connections"
        for signal, tallies in drains.drained(workbench.tokens, home, _RATE, workbench.rounds(_TIMES), kept=kept):
            total = drains.total(tallies)
            name = f"{len(tallies)} x {signal}, {connections}"
            rows.append((name, f"{total.answered:,}", f"{total.refused:,}", f"{total.lost.total():,}"))
            reasons = "; ".join(f"{number} x {reason}" for reason, number in total.lost.most_common(5))
            goals.append(Goal(f"{name}: none lost", reasons or "0", reached=not total.lost))
    return Finding([Table(("", "answered", "nobody listened", "lost"), rows)], goals)


SCENARIO: Final = Scenario(
    "drains",
    "Stopping and replacing workers",
    f"Requests at {_RATE:.0f} a second to two workers, which are stopped by SIGTERM or replaced by SIGHUP. Lost is a"
    " request that fails after its TCP connection was made; one that is refused because nobody listens is not.",
    _run,
)
