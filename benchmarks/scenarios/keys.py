"""(c) Keys on the token and key stores in the configuration."""

import time
from dataclasses import replace
from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Series, server_cpu, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_once
from benchmarks.tokens import key_id
from benchmarks.workbench import Scenario, Workbench

_PLAN: Final = replace(ENCRYPTS, warm_up=2)
_SETTLING_SECONDS: Final = 10.0
"""After the start the proxy lists keys and writes its records for the first time."""

_IN_USE: Final = 10
_FLAT: Final = 0.1
_COUNTS: Final = (1, 100, 1000, 5000)
_STORES: Final = 100


def _settings() -> dict[str, Setting]:
    """By name."""
    found = {
        f"{count:,} key{'s' if count > 1 else ''}": Setting(
            keys_on_token=count, key_ids=tuple(key_id(number) for number in range(min(count, _IN_USE)))
        )
        for count in _COUNTS
    }
    return {**found, f"{_STORES} key stores": Setting(keys_on_token=1, key_stores=_STORES)}


def _run(workbench: Workbench) -> Finding:
    settings = _settings()
    samples = []
    for number in range(workbench.rounds(4)):
        for name, setting in settings.items():
            with servers.proxy(workbench.tokens, workbench.new_directory(), setting) as server:
                time.sleep(_SETTLING_SECONDS * workbench.share)
                samples.append(measure_once(workbench.variant(name, server, _PLAN), number, workbench.report_sample)[0])
    goals = []
    for what, value in (("throughput", throughput), ("processor time a request", server_cpu)):
        medians = [value(samples, name) for name in settings]
        apart = (max(medians) - min(medians)) / max(medians)
        goals.append(Goal(f"{what} flat within 10 %", f"medians at most {apart:.0%} apart", reached=apart <= _FLAT))
    failed = sum(sample.failed for sample in samples)
    goals.append(Goal("none failed", f"{failed} of {sum(sample.requests for sample in samples):,}", reached=not failed))
    points = [(float(count), server_cpu(samples, name)) for count, name in zip(_COUNTS, settings, strict=False)]
    chart = Chart(
        "keys",
        "Server CPU by keys on the token",
        "keys",
        "µs a request",
        x_scale="logarithmic",
        series=[Series("one key store", points)],
    )
    return Finding([usual_table(samples, list(settings))], goals, [chart], samples)


SCENARIO: Final = Scenario(
    "keys",
    "Keys and key stores",
    f"Encrypts under {_IN_USE} keys of the token, or under the one there is; with {_STORES} key stores in turn through"
    " each of them. The proxy is restarted for each phase, so that no other proxy runs during a"
    f" measurement, and gets no load for the first {_SETTLING_SECONDS:.0f} s, because it has work to do after a start.",
    _run,
)
