"""What many key stores cost: ``PYTHONPATH=tests python -m benchmarks.tenants [--stores 1000 ...] [--keys 1]``.

For each number of key stores, one proxy with two workers on one token: start, memory, processor time while idle, time
until a block is in force, and then scrapes and status while another client sends Encrypts one after another. Each key
store has been used with each key before. The last column is the time from SIGTERM to the end.
"""

import http.client
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

from benchmarks import processes
from benchmarks.servers import Server, Setting, proxy
from benchmarks.tokens import Tokens, key_id, prepared
from xksproxy.client.xks import XksClient
from xksproxy.spec.uri import Operation

_IDLE_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 15.0
_SCRAPES: Final = 5
_LONGEST_SECONDS: Final = 20.0
_METADATA: Final = {
    "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
    "kmsOperation": "Encrypt",
    "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
}
_MESSAGE: Final = {"requestMetadata": _METADATA, "plaintext": "AAAA", "encryptionAlgorithm": "AES_GCM"}


@dataclass(slots=True)
class Neighbour:
    """A client of the first key store that sends one Encrypt after another on a thread."""

    client: XksClient
    times: list[float] = field(default_factory=list)
    """Milliseconds of each answer."""

    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Send until told to stop."""
        while not self._stop.is_set():
            answer = self.client.call(Operation.ENCRYPT, _MESSAGE, key_id(0))
            self.times.append(answer.milliseconds)
            self.failed += answer.status != http.HTTPStatus.OK
            time.sleep(0.002)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Send in the block."""
        self.times.clear()
        self._stop.clear()
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def summary(self) -> str:
        """The 99th percentile and the longest time in ms."""
        ordered = sorted(self.times)
        return f"{ordered[int(0.99 * (len(ordered) - 1))]:.0f} / {ordered[-1]:.0f}"


def client_of(server: Server, number: int) -> XksClient:
    """A client of one destination."""
    target = server.destinations[number].target
    return XksClient(target.endpoint, target.context())


def use_keys(server: Server, stores: int, keys: int) -> None:
    """Encrypt once with each key of each key store."""
    for number in range(stores):
        with client_of(server, number) as client:
            for key in range(keys):
                client.call(Operation.ENCRYPT, _MESSAGE, key_id(key))


def _get(server: Server, path: str) -> tuple[float, bytes]:
    """Seconds and body of an answer of the admin listener; no body if it takes more than 20 s."""
    connection = http.client.HTTPConnection("127.0.0.1", server.admin, timeout=_LONGEST_SECONDS)
    begun = time.monotonic()
    try:
        connection.request("GET", path)
        content = connection.getresponse().read()
    except TimeoutError:
        content = b""
    connection.close()
    return time.monotonic() - begun, content


def largest_worker(server: Server) -> float:
    """The resident MiB of the largest worker."""
    return max(processes.memory(pid).resident for pid in server.workers())


def idle_share(server: Server) -> float:
    """The part of a core that the proxy takes while nobody calls it."""
    time.sleep(_SETTLE_SECONDS)
    before = server.cpu_seconds()
    time.sleep(_IDLE_SECONDS)
    return (server.cpu_seconds() - before) / _IDLE_SECONDS


def _scrapes(server: Server, neighbour: Neighbour, path: str) -> list[str]:
    """Seconds of a scrape, size, and what the neighbour sees meanwhile."""
    seconds = []
    content = b""
    with neighbour.busy():
        for _ in range(_SCRAPES):
            took, content = _get(server, path)
            seconds.append(took)
            if not content:
                break
            time.sleep(0.2)
    return [f"{sorted(seconds)[len(seconds) // 2]:.2f}", f"{len(content) / 1e6:.2f}", neighbour.summary()]


def stop_seconds(server: Server) -> float:
    """Seconds from SIGTERM to the end of the last process."""
    pids = [*server.workers(), server.pid or 0]
    begun = time.monotonic()
    os.kill(server.pid or 0, signal.SIGTERM)
    while any(processes.cpu_seconds(pid) and Path(f"/proc/{pid}/exe").exists() for pid in pids):
        time.sleep(0.02)
    return time.monotonic() - begun


def measure(tokens: Tokens, home: Path, stores: int, keys: int, token: int) -> Iterator[tuple[str, str]]:
    """Measure one number of key stores: names and values."""
    setting = Setting(keys_on_token=token, key_stores=stores, workers=2, own_credentials=True)
    with proxy(tokens, home, setting) as server:
        yield "key stores", str(stores)
        yield "ready s", f"{server.started_in:.1f}"
        yield "MiB a worker", f"{largest_worker(server):.0f}"
        yield "idle, unused", f"{idle_share(server):.1%}"
        use_keys(server, stores, keys)
        yield "idle, used", f"{idle_share(server):.1%}"
        with client_of(server, 0) as client:
            neighbour = Neighbour(client)
            with neighbour.busy():
                time.sleep(3)
            yield "p99 / longest ms alone", neighbour.summary()
            seconds, size, seen = _scrapes(server, neighbour, "/metrics")
            series = sum(line[:1] not in (b"#", b"") for line in _get(server, "/metrics")[1].split(b"\n"))
            yield "series", f"{series:,}"
            yield "scrape s", seconds
            yield "MB", size
            yield "p99 / longest ms", seen
            for path in ("/status", "/"):
                seconds, size, seen = _scrapes(server, neighbour, path)
                yield f"{path} s", seconds
                yield "MB", size
                yield "p99 / longest ms", seen
        yield "MiB a worker after", f"{largest_worker(server):.0f}"
        yield "stop s", f"{stop_seconds(server):.1f}"


@click.command()
@click.option("--stores", "counts", multiple=True, type=int, default=(1, 100, 1000), show_default=True)
@click.option("--keys", default=1, show_default=True, help="Keys of each key store that are used.")
@click.option("--token", default=1, show_default=True, help="Keys on the token; there is a token for some numbers.")
def main(counts: tuple[int, ...], keys: int, token: int) -> None:
    """Measure proxies with so many key stores."""
    with tempfile.TemporaryDirectory(prefix="xksproxy-tenants-") as directory:
        tokens = prepared(Path(".xksproxy-bench"))
        for stores in counts:
            for name, value in measure(tokens, Path(directory) / str(stores), stores, keys, token):
                click.echo(f"{name:24} {value}")
            click.echo()


if __name__ == "__main__":
    main()
