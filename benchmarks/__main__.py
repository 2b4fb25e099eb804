"""The runner: ``./dev bench``."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click
import msgspec
from xksproxy_tools.load.measure import BenchError

from benchmarks import document, machine
from benchmarks.others import read_others
from benchmarks.results import Finding, Goal, Results, Sample, Table
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import ServerFailed
from benchmarks.tokens import prepared
from benchmarks.workbench import Scenario, Workbench
from xksproxy.cli.table import print_table
from xksproxy.client.target import TargetError

_DIRECTORY: Final = Path(".xksproxy-bench")
_QUICK: Final = 0.25
_NAMES: Final = [scenario.name for scenario in SCENARIOS]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("names", nargs=-1, type=click.Choice(_NAMES), metavar="[SCENARIO]...")
@click.option("--quick", is_flag=True, help="Run for a quarter of the time, to see that everything works.")
@click.option("--publish", is_flag=True, help="Put the results into docs/performance.md.")
@click.option("--others", type=click.Path(path_type=Path, exists=True), help="JSON list of other proxies.")
@click.option("--prepare", is_flag=True, help="Create the tokens, print their directory, and exit.")
def main(names: tuple[str, ...], *, quick: bool, publish: bool, others: Path | None, prepare: bool) -> None:
    """Run all benchmarks, which takes about 35 minutes, or some of them.

    \b
    The scenarios are generator, overhead, workers, keys, others, mixed, footprint, latency, slow-hsm, framing,
    strangers, drains and growth.

    The exit code is 1 if a goal is missed or a response was false. Results are in .xksproxy-bench/results.json.

    Another proxy is given by its URL. It must use TLS, and a token that --prepare created:

    \b
      [{"name": "other", "endpoint": "https://localhost:9443", "path": "/example/kms/xks/v1",
        "credential_file": "credential.json", "ca": "ca.pem", "key": "key-0000", "keys_on_token": 1}]

    \b
    Example:
      ./dev bench overhead latency
      ./dev bench --others others.json --publish
    """
    tokens = prepared(_DIRECTORY)
    if prepare:
        click.echo(f"tokens, certificate and credential are in {tokens.directory}")
        return
    chosen = [scenario for scenario in SCENARIOS if scenario.name in names or not names]
    results = Results(machine=machine.properties())
    with tempfile.TemporaryDirectory(prefix="xksproxy-bench-") as directory:
        workbench = Workbench(
            tokens, Path(directory), _QUICK if quick else 1.0, read_others(others) if others else [], _print_sample
        )
        for scenario in chosen:
            results.findings[scenario.name] = _run(scenario, workbench)
            document.save(results, _DIRECTORY / "results.json")
    if publish:
        document.publish(results, SCENARIOS)
    if not all(_good(finding) for finding in results.findings.values()):
        sys.exit(1)


def _run(scenario: Scenario, workbench: Workbench) -> Finding:
    click.secho(f"\n{scenario.title}", bold=True)
    started = time.monotonic()
    try:
        finding = scenario.run(workbench)
    except (BenchError, ServerFailed) as error:
        finding = Finding([], [Goal("can be measured", str(error), reached=False)])
    finding = msgspec.structs.replace(finding, seconds=time.monotonic() - started)
    click.echo()
    for table in finding.tables:
        _print(table)
    for note in finding.notes:
        click.echo(note)
    for goal in finding.goals:
        click.secho(f"{'reached' if goal.reached else 'MISSED '}  {goal.text}: {goal.found}", bold=not goal.reached)
    click.echo(f"({finding.seconds:.0f} s)")
    return finding


def _print(table: Table) -> None:
    if table.rows:
        print_table(table.columns, table.rows)
        click.echo()


def _print_sample(sample: Sample) -> None:
    more = [f"{count} x {name}" for name, count in {**sample.wrong, **sample.failures}.items()]
    if sample.generator_limit:
        more.append(sample.generator_limit)
    server = f"server {sample.server_cpu:5.0f} µs"
    text = (f"  {sample.variant:24} {sample.throughput:8,.0f}/s", server, f"p99 {sample.p99:6.1f} ms", *more)
    click.echo("  ".join(text))


def _good(finding: Finding) -> bool:
    return all(goal.reached for goal in finding.goals) and not any(sample.wrong for sample in finding.samples)


if __name__ == "__main__":
    try:
        main(prog_name="./dev bench")
    except TargetError as error:
        click.echo(f"bench: {error}", err=True)
        sys.exit(2)
