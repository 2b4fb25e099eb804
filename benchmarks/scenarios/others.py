"""(d) Other proxies, named by URL, on the same tokens."""

from contextlib import ExitStack
from typing import Final

from xksproxy_tools.load.plan import Plan

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Table, median_ratio, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, Variant, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_GOALS: Final = {1: 1.25, 600: 20.0}
"""How many times the other's throughput, by keys on the token."""


def _run(workbench: Workbench) -> Finding:
    if not workbench.others:
        return Finding([Table(("",), [])], notes=["No other proxy was named: see `./dev bench --help`, `--others`."])
    with ExitStack() as stack:
        variants = started(workbench, stack, ENCRYPTS)
        samples = measure_in_turn(variants, workbench.rounds(4), workbench.report_sample)
    goals = []
    for other in workbench.others:
        count = other.keys_on_token
        ratio = median_ratio(samples, named("xksproxy", count), named(other.name, count))
        wanted = _GOALS.get(count, 1.0)
        goals.append(
            Goal(
                f"{wanted:g} times the throughput of {named(other.name, count)}",
                f"{ratio:.2f}",
                reached=ratio >= wanted,
            )
        )
    names = [variant.name for variant in variants]
    chart = Chart("others", "Encrypts a second", bars=[(name, throughput(samples, name)) for name in names])
    return Finding([usual_table(samples, names)], goals, [chart], samples)


def started(workbench: Workbench, stack: ExitStack, plan: Plan) -> list[Variant]:
    """This proxy with two workers, and behind it the others, for each number of keys that the others have."""
    counts = sorted({other.keys_on_token for other in workbench.others}) or [1]
    variants = []
    for count in counts:
        setting = Setting(keys_on_token=count, workers=2)
        server = stack.enter_context(servers.proxy(workbench.tokens, workbench.new_directory(), setting))
        variants.append(workbench.variant(named("xksproxy", count), server, plan))
        variants += [
            workbench.variant(named(other.name, count), other.server, plan)
            for other in workbench.others
            if other.keys_on_token == count
        ]
    return variants


def named(name: str, keys: int) -> str:
    """The name of a variant."""
    return f"{name}, {keys} key{'s' if keys > 1 else ''}"


SCENARIO: Final = Scenario(
    "others",
    "Other proxies",
    "Encrypts as above on the same SoftHSM2 token, with one key and with 600; all servers run, and get load in turn."
    " This proxy has two workers, and the other its own settings.",
    _run,
)
