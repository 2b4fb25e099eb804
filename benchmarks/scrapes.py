"""How long a scrape takes after many workers have ended: ``python -m benchmarks.scrapes``.

Each worker that ends has counted requests of five key stores and Decrypts of 500 keys, and leaves its file to the
master, as in the service. Then the metrics are rendered as for a scrape.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from xksproxy.server.runtime import make_runtime_directory
from xksproxy.telemetry.metric_files import EndedWorkers
from xksproxy.telemetry.metrics import Metrics

_STORES: Final = 5
_KEYS: Final = 100
_SCRAPES: Final = 20
_GOAL_SECONDS: Final = 0.05
_ENDED_PID: Final = 2**22 + 1
_WORKER: Final = "import sys; from pathlib import Path; from benchmarks.scrapes import count; count(Path(sys.argv[1]))"


def count(directory: Path) -> None:
    """Count as a worker does, and publish it."""
    metrics = Metrics(directory)
    for store in range(_STORES):
        for operation in ("Encrypt", "Decrypt"):
            metrics.count_request(
                keystore=f"store-{store}",
                kms_operation=operation,
                xks_operation=operation,
                exception=None,
                seconds=0.005,
                queue_seconds=0.001,
                hsm_seconds=0.003,
            )
        for key in range(_KEYS):
            metrics.count_decrypt(f"store-{store}", f"key-{key:04}", "arn:aws:iam::123456789012:role/example")
    metrics.publish()


@click.command()
@click.option("--ends", default=10_000, show_default=True, help="How many workers end.")
def main(ends: int) -> None:
    """Measure scrapes after workers have ended. The exit code is 1 if the median is above 50 ms or a count is lost."""
    directory = make_runtime_directory()
    subprocess.run([sys.executable, "-c", _WORKER, directory], check=True)
    (left,) = directory.glob("metrics-*.worker")
    content = left.read_bytes()
    left.unlink()
    ended = EndedWorkers(directory)
    ended.prepare()
    path = directory / f"metrics-{_ENDED_PID}.worker"
    begun = time.perf_counter()
    for _ in range(ends):
        path.write_bytes(content)
        ended.add(_ENDED_PID)
    each = (time.perf_counter() - begun) / ends
    count(directory)
    reader = Metrics(directory)
    seconds, text = [], b""
    processor_begun = time.process_time()
    for _ in range(_SCRAPES):
        begun = time.perf_counter()
        text = reader.render()
        seconds.append(time.perf_counter() - begun)
    processor_seconds = (time.process_time() - processor_begun) / _SCRAPES
    files = len(list(directory.iterdir()))
    total = sum(
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == "xksproxy_requests_total"
    )
    lost = 2 * _STORES * (ends + 1) - total
    median = statistics.median(seconds)
    result = {
        "ended_workers": ends,
        "files": files,
        "bytes": len(text),
        "requests_lost": lost,
        "scrape_ms_median": round(1000 * median, 1),
        "scrape_ms_highest": round(1000 * max(seconds), 1),
        "scrape_processor_ms": round(1000 * processor_seconds, 1),
        "master_ms_for_each_end": round(1000 * each, 2),
    }
    click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())
    sys.exit(1 if lost or median > _GOAL_SECONDS else 0)


if __name__ == "__main__":
    main()
