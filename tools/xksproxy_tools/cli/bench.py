"""``xksproxy bench``: puts load on a proxy, and measures the latency of every request."""

import math
import sys
from dataclasses import replace
from typing import Any

import click
import msgspec

from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.output_file import OUTPUT, Output
from xksproxy.cli.table import print_table
from xksproxy.cli.target_options import target_options
from xksproxy.client.target import Target, TargetError
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MAXIMUM_PLAINTEXT_BYTES
from xksproxy.spec.uri import is_key_id
from xksproxy_tools.load import measure, search, text_report
from xksproxy_tools.load.html_report import report
from xksproxy_tools.load.measure import BenchError, Measurement
from xksproxy_tools.load.plan import Arrivals, Destination, Plan, PlanError, parse_mix, parse_sizes
from xksproxy_tools.load.progress import LiveProgress
from xksproxy_tools.load.search import Search

_DEFAULT: Plan = Plan()


@click.command()
@target_options
@click.option(
    "--key",
    "key_ids",
    envvar="KEY_ID",
    show_envvar=True,
    required=True,
    multiple=True,
    help="External key id; can be repeated, the keys are used in turn.",
)
@click.option("--rate", type=float, default=_DEFAULT.rate, show_default=True, help="Requests per second.")
@click.option("--duration", type=float, default=_DEFAULT.duration, show_default=True, help="Seconds of measured load.")
@click.option(
    "--warm-up",
    type=float,
    default=_DEFAULT.warm_up,
    show_default=True,
    help="Seconds of load before that, not measured.",
)
@click.option(
    "--connections", type=int, default=_DEFAULT.connections, show_default=True, help="Number of persistent connections."
)
@click.option(
    "--arrivals",
    type=click.Choice([kind.value for kind in Arrivals]),
    default=_DEFAULT.arrivals.value,
    show_default=True,
    help="At equal intervals, or at random as from many callers.",
)
@click.option("--closed", is_flag=True, help="Each connection sends its next request after the last response.")
@click.option("--mix", default=str(_DEFAULT.mix), show_default=True, help="Operations and their weights.")
@click.option(
    "--plaintext-bytes", default=str(_DEFAULT.plaintext_bytes), show_default=True, help="Sizes and their weights."
)
@click.option(
    "--aad-bytes", default=str(_DEFAULT.aad_bytes), show_default=True, help="Sizes and their weights; 0 means no AAD."
)
@click.option(
    "--cdiv",
    "cdiv_percent",
    type=float,
    default=_DEFAULT.cdiv_percent,
    show_default=True,
    help="Percentage of Encrypts that request an integrity value.",
)
@click.option(
    "--give-up-after",
    type=float,
    default=_DEFAULT.give_up_after,
    show_default=True,
    help="Seconds to wait for a response; then its connection is replaced.",
)
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True, help="Seed of all random choices.")
@click.option("--p99", "p99_bound", type=float, help="Milliseconds; exit code 1 if the p99 is above.")
@click.option("--find-max", is_flag=True, help="Search for the highest rate with a p99 within --p99.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "html_file", type=OUTPUT, help="Write an HTML report.")
def bench(
    *,
    target: Target,
    key_ids: tuple[str, ...],
    p99_bound: float | None,
    find_max: bool,
    as_json: bool,
    html_file: Output | None,
    **settings: Any,
) -> None:
    """Put load on any XKS proxy as AWS KMS does, and measure its responses.

    Requests are sent when they are due, also while earlier ones are unanswered. Latency is measured from the due time,
    so it includes stalls. A response after 250 ms counts as failed, as for KMS. Every response is checked; the exit
    code is 1 if one is false, such as a wrong plaintext or a wrong integrity value.

    With --find-max, which needs --p99, each rate is measured for --duration seconds (default: 5). Requests that are
    answered with errors are reported, and do not change the exit code.

    \b
    Example:
      source .xksproxy-dev/client.env
      xksproxy bench --rate 500 --duration 20
      xksproxy bench --find-max --p99 10
    """
    for key_id in key_ids:
        if not is_key_id(key_id):
            raise click.UsageError(f"{key_id!r} is not an external key id")
    _check_options(p99_bound, find_max=find_max, closed=settings["closed"], html_file=html_file)
    plan = _plan(settings, find_max=find_max)
    destinations = [Destination(target, key_id) for key_id in key_ids]
    try:
        if find_max and p99_bound is not None:
            found = _search(plan, destinations, p99_bound)
            _print_search(plan, found, as_json=as_json)
            measurements = [trial.measurement for trial in found.trials]
            bound_missed = not found.rate
        else:
            measurement = _measure(plan, destinations)
            if not (html_file and html_file.standard):
                _print_measurement(plan, measurement, as_json=as_json)
            if html_file:
                html_file.write(report(plan, destinations[0], measurement))
            measurements = [measurement]
            p99 = measurement.figures.latency.p99
            bound_missed = p99_bound is not None and p99 > p99_bound
            if bound_missed:
                print_error(f"the p99 is {p99:.2f} ms, above the {p99_bound:g} ms of --p99")
    except (BenchError, TargetError) as error:
        print_error(f"https://{target.authority}: {error}")
        sys.exit(COULD_NOT_RUN)
    if text_report.false_answers(measurements) or bound_missed:
        sys.exit(FOUND_SOMETHING_WRONG)


def _check_options(p99_bound: float | None, *, find_max: bool, closed: bool, html_file: Output | None) -> None:
    """Refuse options that cannot be combined."""
    if p99_bound is not None and not 0 < p99_bound < math.inf:
        raise click.UsageError(f"--p99 is {p99_bound:g}; expected milliseconds above 0")
    if find_max and (p99_bound is None or closed):
        raise click.UsageError("--find-max needs --p99, and cannot be used with --closed")
    if find_max and html_file:
        raise click.UsageError("--html cannot be used with --find-max; measure again at the rate that was found")


def _plan(settings: dict[str, Any], *, find_max: bool) -> Plan:
    given = click.get_current_context().get_parameter_source("duration")
    short = find_max and given is click.core.ParameterSource.DEFAULT
    try:
        plan = Plan(
            **{
                **settings,
                "arrivals": Arrivals(settings["arrivals"]),
                "mix": parse_mix(settings["mix"]),
                "plaintext_bytes": parse_sizes(settings["plaintext_bytes"], MAXIMUM_PLAINTEXT_BYTES),
                "aad_bytes": parse_sizes(settings["aad_bytes"], MAXIMUM_AAD_BYTES),
            }
        )
    except PlanError as error:
        raise click.UsageError(str(error)) from None
    return replace(plan, duration=5.0, warm_up=1.0) if short else plan


def _measure(plan: Plan, destinations: list[Destination]) -> Measurement:
    async def main() -> Measurement:
        async with measure.open_bench(plan, destinations, progress) as opened:
            return await opened.measure()

    with LiveProgress() as progress:
        return measure.run(main())


def _search(plan: Plan, destinations: list[Destination], p99_bound_ms: float) -> Search:
    async def main() -> Search:
        async with measure.open_bench(plan, destinations, progress) as opened:
            return await search.find_maximum(opened, plan.rate, plan.duration, p99_bound_ms)

    with LiveProgress() as progress:
        return measure.run(main())


def _print_measurement(plan: Plan, measurement: Measurement, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"plan": text_report.plan_as_dict(plan), **msgspec.to_builtins(measurement), "wrong": measurement.wrong}
        )
        return
    for finding in text_report.false_answers([measurement]):
        print_error(f"FALSE ANSWERS: {finding}")
    for name, value in text_report.summary(plan, measurement):
        print_line(f"{name:16} {value}")
    print_line()
    print_table(text_report.LATENCY_COLUMNS, text_report.latency_rows(measurement))
    if rows := text_report.outcome_rows(measurement):
        print_line()
        print_table(("failed", "requests"), rows)
    if measurement.generator.limit:
        print_error(text_report.generator_warning(measurement))


def _print_search(plan: Plan, found: Search, *, as_json: bool) -> None:
    if as_json:
        print_json({"plan": text_report.plan_as_dict(plan), **msgspec.to_builtins(found)})
        return
    for finding in text_report.false_answers(trial.measurement for trial in found.trials):
        print_error(f"FALSE ANSWERS: {finding}")
    print_table(text_report.TRIAL_COLUMNS, text_report.trial_rows(found))
    print_line()
    if found.rate:
        print_line(
            f"{found.rate:,.0f} requests a second is the highest rate found with a p99 within {found.p99_bound_ms:g} ms"
        )
    else:
        print_line(f"no rate was found with a p99 within {found.p99_bound_ms:g} ms")
