"""(k) Clients of KMS while strangers attack."""

from typing import Final

from benchmarks import strangers
from benchmarks.attack import KINDS
from benchmarks.results import Finding, Goal, Table
from benchmarks.workbench import Scenario, Workbench

_SECONDS: Final = 20.0
_COLUMNS: Final = ("", "new in time", "of", "kept in time", "of", "largest worker MiB", "processors used")


def _run(workbench: Workbench) -> Finding:
    rows, goals = [], []
    for mutual_tls in (False, True):
        home = workbench.new_directory()
        home.mkdir()
        attacks = strangers.attack_in_turn(
            workbench.tokens, home, _SECONDS * workbench.share, strangers.ATTACKS, mutual_tls=mutual_tls
        )
        for kinds, outcome in attacks:
            name = f"{strangers.named(kinds)}{', mutual TLS' if mutual_tls else ''}"
            rows.append((name, *strangers.cells(outcome)))
            found = f"{outcome.share:.2%}, {outcome.largest_mib:.0f} MiB"
            goals.append(Goal(f"{name}: {strangers.GOAL}", found, reached=outcome.good))
    return Finding([Table(_COLUMNS, rows)], goals)


SCENARIO: Final = Scenario(
    "strangers",
    "Strangers",
    "Signed Encrypts, 25 a second on new connections and 25 on kept ones, to two workers. Meanwhile clients without"
    f" credentials attack from a process of their own, each kind alone and then all together: {', '.join(KINDS)}. In"
    " time is within 250 ms, as KMS wants it. Load, attack and proxy share the machine's processors.",
    _run,
)
