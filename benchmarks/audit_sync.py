"""The cost of audit lines on disk before the answer: ``python -m benchmarks.audit_sync``.

Two proxies, one with ``[audit] sync = true``, get the same load in turn: as many Encrypts as possible on 32
connections, and 200 a second. Only the ratios mean something on another disk.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

import click

from benchmarks import servers
from benchmarks.results import Sample, median_ratio, of
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, Variant, measure_in_turn
from benchmarks.tokens import prepared

_WITH: Final = 'when_full = "refuse"\nsync = true'
_WITHOUT: Final = 'when_full = "refuse"'
_PLANS: Final = {
    "32 connections": ENCRYPTS,
    "200 a second": replace(ENCRYPTS, closed=False, rate=200.0, connections=16),
}


@click.command()
@click.option("--rounds", default=6, show_default=True)
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="Where the audit logs are.")
def main(rounds: int, directory: Path | None) -> None:
    """Print throughput and latency without and with a sync before each answer."""
    with tempfile.TemporaryDirectory(dir=directory) as top:
        home = Path(top)
        tokens = prepared(home, [1])
        with (
            servers.proxy(tokens, home / "without", Setting(audit=_WITHOUT)) as without,
            servers.proxy(tokens, home / "with", Setting(audit=_WITH)) as synced,
        ):
            for load, plan in _PLANS.items():
                variants = [Variant("without", without, plan), Variant("with", synced, plan)]
                samples = measure_in_turn(variants, rounds, lambda _: None)
                click.echo(load)
                for variant in variants:
                    click.echo(f"  {variant.name:8} {_figures(of(samples, variant.name))}")
                click.echo(f"  throughput with / without: {median_ratio(samples, 'with', 'without'):.2f}")


def _figures(samples: list[Sample]) -> str:
    values = {name: median(getattr(sample, name) for sample in samples) for name in ("throughput", "p50", "p99")}
    failed = sum(sample.failed + sample.late for sample in samples)
    cpu = median(sample.server_cpu for sample in samples)
    return (
        f"{values['throughput']:.0f}/s, p50 {values['p50']:.2f} ms, p99 {values['p99']:.2f} ms, {cpu:.0f} us of"
        f" processor time each, {failed} failed or late"
    )


if __name__ == "__main__":
    main()
