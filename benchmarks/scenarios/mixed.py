"""(i) A steady load of Encrypts and Decrypts, beside other proxies."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from statistics import median
from typing import Final

from xksproxy_tools.load.plan import parse_mix

from benchmarks.results import Finding, Goal, Sample, Table, of
from benchmarks.scenarios.others import named, started
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Other, Scenario, Workbench

_RATE: Final = 1200.0
_PLAN: Final = replace(
    ENCRYPTS, closed=False, rate=_RATE, duration=15, warm_up=3, connections=64, mix=parse_mix("encrypt,decrypt")
)
_COLUMNS: Final = ("", "server CPU µs/request", "p50 ms", "p99 ms", "p99.9 ms", "requests", "failed", "over 250 ms")
_GOALS: Final[tuple[tuple[str, float, Callable[[Sample], float]], ...]] = (
    ("processor time a request", 1.0, lambda sample: sample.server_cpu),
    ("p50", 1.2, lambda sample: sample.p50),
    ("p99.9", 1.0, lambda sample: sample.p99_9),
)
"""What is compared, and how many times the other's it may be."""


def _run(workbench: Workbench) -> Finding:
    with ExitStack() as stack:
        variants = started(workbench, stack, _PLAN)
        samples = measure_in_turn(variants, workbench.rounds(4), workbench.report_sample)
    rows = [_row(variant.name, of(samples, variant.name)) for variant in variants]
    failed = sum(sample.failed for sample in samples if sample.variant.startswith("xksproxy"))
    goals = [
        Goal("none failed", f"{failed} of the proxy's", reached=not failed),
        *(goal for other in workbench.others for goal in _goals(samples, other)),
    ]
    notes = [] if workbench.others else ["No other proxy was named: see `./dev bench --help`, `--others`."]
    return Finding([Table(_COLUMNS, rows)], goals, samples=samples, notes=notes)


def _row(name: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    cpu = median(sample.server_cpu for sample in samples)
    percentiles = [(sample.p50, sample.p99, sample.p99_9) for sample in samples]
    counts = [(sample.requests, sample.failed, sample.late) for sample in samples]
    return (
        name,
        f"{cpu:,.0f}" if cpu else "not here",
        *(f"{median(values):.2f}" for values in zip(*percentiles, strict=True)),
        *(f"{sum(values):,}" for values in zip(*counts, strict=True)),
    )


def _goals(samples: Sequence[Sample], other: Other) -> list[Goal]:
    """Ratios within a round, of which the median counts."""
    name, count = named(other.name, other.keys_on_token), other.keys_on_token
    pairs = list(zip(of(samples, named("xksproxy", count)), of(samples, name), strict=True))
    goals = []
    for what, most, value in _GOALS:
        if not all(value(theirs) for _, theirs in pairs):  # the processes of a remote server are not seen
            continue
        ratio = median(value(ours) / value(theirs) for ours, theirs in pairs)
        goals.append(Goal(f"{what} at most {most:g} times that of {name}", f"{ratio:.2f}", reached=ratio <= most))
    return goals


SCENARIO: Final = Scenario(
    "mixed",
    "Encrypts and Decrypts at 1,200 requests a second",
    "An open loop: half Encrypts with integrity value, half Decrypts, 236 bytes of plaintext and 160 of AAD, 64"
    " connections. This proxy has two workers with everything on, and the others their own settings. They are measured"
    " in turn. Latency counts from when a request was due; processor time is user and system time of all processes of"
    " the server.",
    _run,
)
