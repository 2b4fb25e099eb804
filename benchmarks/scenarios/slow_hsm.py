"""(g) An HSM with slow calls."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

from fault_support import FaultyHsm, compile_fault_module, make_faulty_hsm

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Sample, Series, Table, throughput
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_PLAN: Final = replace(ENCRYPTS, cdiv_percent=0, duration=3, warm_up=0.5)
_SESSIONS: Final = (4, 16)
_LATENCIES_MS: Final = (0, 1, 5, 20)
_WITHIN: Final = 0.1
_CLEAR_OF_THE_LIMIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Point:
    """A number of sessions, and the time of an encryption on the HSM."""

    sessions: int
    milliseconds: int

    @property
    def name(self) -> str:
        return f"{self.sessions} sessions, {self.milliseconds} ms"

    @property
    def ideal(self) -> float:
        return 1000 * self.sessions / self.milliseconds if self.milliseconds else float("inf")


_POINTS: Final = {point.name: point for point in (_Point(s, ms) for s in _SESSIONS for ms in _LATENCIES_MS)}


def _run(workbench: Workbench) -> Finding:
    workbench.directory.mkdir(parents=True, exist_ok=True)
    module = compile_fault_module(workbench.directory)
    with ExitStack() as stack:
        hsms: dict[int, FaultyHsm] = {}
        variants = []
        for sessions in _SESSIONS:
            like = workbench.tokens.hsm(1, sessions)
            tokens = workbench.tokens.home(1) / "tokens"
            hsms[sessions] = make_faulty_hsm(workbench.directory, f"slow-{sessions}", module, tokens, like)
            hsm = hsms[sessions].hsm
            server = stack.enter_context(
                servers.proxy(workbench.tokens, workbench.new_directory(), Setting(hsms=(hsm,)))
            )
            plan = replace(_PLAN, connections=2 * sessions)
            variants += [
                workbench.variant(point.name, server, plan) for point in _POINTS.values() if point.sessions == sessions
            ]

        def slow_down(name: str) -> None:
            point = _POINTS[name]
            hsms[point.sessions].tell(*([f"C_Encrypt delay {point.milliseconds}"] if point.milliseconds else ()))

        samples = measure_in_turn(variants, workbench.rounds(2), workbench.report_sample, slow_down)
    return _finding(samples)


def _finding(samples: list[Sample]) -> Finding:
    limits = {sessions: throughput(samples, _Point(sessions, 0).name) for sessions in _SESSIONS}
    rows, goals = [], []
    for point in _POINTS.values():
        found, ideal = throughput(samples, point.name), min(point.ideal, limits[point.sessions])
        share = found / ideal
        rows.append(
            (
                point.name,
                f"{point.ideal:,.0f}" if point.milliseconds else "",
                f"{found:,.0f}",
                f"{found / point.ideal:.0%}" if point.milliseconds else "the processor's limit",
            )
        )
        if point.milliseconds and point.ideal <= _CLEAR_OF_THE_LIMIT * limits[point.sessions]:
            goals.append(
                Goal(
                    f"{point.name}: sessions / latency within 10 %", f"{share:.0%} of it", reached=share >= 1 - _WITHIN
                )
            )
    columns = ("sessions, latency of a call", "sessions / latency", "Encrypts/s", "share")
    return Finding([Table(columns, rows)], goals, [_chart(samples)], samples)


def _chart(samples: list[Sample]) -> Chart:
    slow = [milliseconds for milliseconds in _LATENCIES_MS if milliseconds]
    series = []
    for sessions in _SESSIONS:
        points = [_Point(sessions, milliseconds) for milliseconds in slow]
        series.append(Series(f"{sessions} sessions", [(p.milliseconds, throughput(samples, p.name)) for p in points]))
        series.append(Series("sessions / latency", [(p.milliseconds, p.ideal) for p in points]))
    title = "Encrypts a second by the latency of the HSM"
    return Chart("slow-hsm", title, "ms", "a second", "logarithmic", "logarithmic", series)


SCENARIO: Final = Scenario(
    "slow-hsm",
    "A slow HSM",
    "A PKCS#11 module that waits before each C_Encrypt and then calls SoftHSM2. Encrypts have no integrity value, so"
    " that each is one call. There is one worker, with twice as many connections as sessions. Without a wait, the"
    " processor is the limit. Goals are for ideal rates of at most half of that limit.",
    _run,
)
