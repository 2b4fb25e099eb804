"""Whether strangers can keep KMS out: signed Encrypts, on new and on kept connections, while others attack.

    ./dev bench strangers
    python -m benchmarks.strangers [--seconds 20] [--kinds bare ...] [--mutual-tls]

The goal is that at least 99.9 % come within 250 ms (R-TIME-1) and that a worker stays under 150 MB. The attack is a
process of its own (:mod:`benchmarks.attack`); each kind runs alone, then all together. The exit code is 1 if a goal is
missed. On a machine whose processors the attacker keeps busy, requests wait for a processor and not for the proxy: the
share without an attack is shown beside.
"""

import asyncio
import json
import math
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

import click
import uvloop
from xksproxy_tools.development.certificates import certificate_pem, create_authority, issue, write_private

from benchmarks import processes, servers
from benchmarks.attack import KINDS
from benchmarks.servers import Server, Setting
from benchmarks.signed_requests import post
from benchmarks.tokens import Tokens, prepared
from xksproxy.client.target import Target

_TIME_LIMIT: Final = 0.25
_PATIENCE_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 0.1
"""For connections that were given up to be gone."""

_RATE: Final = 25.0
"""Requests a second on new connections; as many again on kept ones."""

_KEPT: Final = 5
_SHARE: Final = 0.999
_WORKER_MIB: Final = 150.0
_CLIENT_NAME: Final = "cks.kms.us-east-1.amazonaws.com"
ATTACKS: Final[tuple[tuple[str, ...], ...]] = ((), *((kind,) for kind in KINDS), tuple(KINDS))
"""Nobody, each kind alone, and all together."""

GOAL: Final = f"{_SHARE:.1%} in time, a worker under {_WORKER_MIB:.0f} MiB"
_BODY: Final = json.dumps(
    {
        "requestMetadata": {
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
            "kmsOperation": "Encrypt",
            "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1",
            "kmsRequestId": "strangers",
        },
        "plaintext": "SGVsbG8gV29ybGQh",
        "encryptionAlgorithm": "AES_GCM",
    }
).encode()


@dataclass(slots=True)
class Count:
    """Requests of one kind."""

    took: list[float] = field(default_factory=list)
    """Seconds of each that was answered; infinity for an error of the proxy."""

    lost: Counter[str] = field(default_factory=Counter)
    """Those that were not answered, by what happened."""

    @property
    def total(self) -> int:
        """How many there were."""
        return len(self.took) + self.lost.total()

    @property
    def share(self) -> float:
        """How many came in time."""
        return sum(each <= _TIME_LIMIT for each in self.took) / max(1, self.total)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack."""

    new: Count
    kept: Count
    largest_mib: float
    server_cpu: float
    """Processor seconds of the proxy for each second."""

    @property
    def share(self) -> float:
        """The share that came in time, of new or of kept connections: the lower one."""
        return min(self.new.share, self.kept.share)

    @property
    def good(self) -> bool:
        """Whether the goals were reached."""
        return self.share >= _SHARE and self.largest_mib < _WORKER_MIB


class Caller:
    """Sends what KMS would send."""

    def __init__(self, target: Target, context: ssl.SSLContext, key_id: str = "key-0000") -> None:
        self._target = target
        self._key_id = key_id
        self._context = context

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        return self._target.port

    async def on_a_new_connection(self, count: Count) -> None:
        """Connect, ask once, and close."""
        began = time.monotonic()
        writer = None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                reader, writer = await self._connect()
                count.took.append(await self._ask(reader, writer, began))
        except (OSError, EOFError) as error:
            count.lost[f"{type(error).__name__}: {error}"] += 1
        finally:
            if writer is not None:
                writer.transport.abort()

    async def on_a_kept_connection(self, count: Count, pause: float) -> None:
        """Ask again and again; a connection that is lost is a failure, and is followed by another."""
        while True:
            writer = None
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    reader, writer = await self._connect()
                while True:
                    await asyncio.sleep(pause)
                    async with asyncio.timeout(_PATIENCE_SECONDS):
                        count.took.append(await self._ask(reader, writer, time.monotonic()))
            except (OSError, EOFError) as error:
                count.lost[f"{type(error).__name__}: {error}"] += 1
            finally:
                if writer is not None:
                    writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self._target.port, ssl=self._context, server_hostname=self._target.host
        )

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, began: float) -> float:
        target = self._target
        path = f"{target.path_prefix}/kms/xks/v1/keys/{self._key_id}/encrypt"
        head = await post(reader, writer, target, path, _BODY)
        return time.monotonic() - began if head.startswith(b"HTTP/1.1 200 ") else math.inf


async def measure(caller: Caller, server: Server, seconds: float) -> Outcome:
    """Send requests at a steady rate for a time."""
    new, kept = Count(), Count()
    running = {asyncio.create_task(caller.on_a_kept_connection(kept, _KEPT / _RATE)) for _ in range(_KEPT)}
    coming: set[asyncio.Task[None]] = set()
    largest, cpu = 0.0, server.cpu_seconds()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        task = asyncio.create_task(caller.on_a_new_connection(new))
        coming.add(task)
        task.add_done_callback(coming.discard)
        await asyncio.sleep(1 / _RATE)
        if new.total % int(_RATE) == 0:
            largest = max([largest, *(processes.memory(pid).resident for pid in server.workers())])
    await asyncio.gather(*coming)
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.sleep(_CLOSE_SECONDS)
    return Outcome(new, kept, largest, (server.cpu_seconds() - cpu) / seconds)


def attacked(caller: Caller, server: Server, kinds: Sequence[str], seconds: float, strength: float = 1.0) -> Outcome:
    """Measure while these kinds of strangers attack."""
    limit = seconds + 30
    command = [sys.executable, "-m", "benchmarks.attack", str(caller.port), str(limit), str(strength), *kinds]
    attack = subprocess.Popen(command) if kinds else None
    try:
        return uvloop.run(measure(caller, server, seconds))
    finally:
        if attack is not None:
            attack.kill()
            attack.wait()


def client_certificate(home: Path) -> tuple[Path, Path]:
    """An authority of clients, and a certificate with its key by it."""
    authority = create_authority("clients of the benchmark")
    (home / "clients.pem").write_bytes(certificate_pem(authority.certificate))
    certificate, key = issue(authority, _CLIENT_NAME, client=True)
    write_private(home / "client.pem", certificate + key)
    return home / "clients.pem", home / "client.pem"


def attack_in_turn(
    tokens: Tokens, home: Path, seconds: float, attacks: Sequence[tuple[str, ...]], *, mutual_tls: bool
) -> Iterator[tuple[tuple[str, ...], Outcome]]:
    """Start a proxy of two workers in a directory, and measure during each attack, for so many seconds each."""
    context = ssl.create_default_context(cafile=tokens.authority)
    tls = ""
    if mutual_tls:
        clients, certificate = client_certificate(home)
        context.load_cert_chain(certificate)
        tls = f'client_ca = "{clients}"\nclient_names = ["{_CLIENT_NAME}"]\n'
    with servers.proxy(tokens, home / "proxy", Setting(workers=2, tls=tls)) as server:
        caller = Caller(server.destinations[0].target, context)
        for kinds in attacks:
            yield kinds, attacked(caller, server, kinds, seconds)


def named(kinds: Sequence[str]) -> str:
    """The name of an attack."""
    return "all together" if len(kinds) == len(KINDS) else " ".join(kinds) or "nobody"


def cells(outcome: Outcome) -> tuple[str, ...]:
    """Shares and numbers of new and kept connections, memory and processors, as text."""
    counts = ((f"{count.share:.2%}", f"{count.total:,}") for count in (outcome.new, outcome.kept))
    return (*chain.from_iterable(counts), f"{outcome.largest_mib:.0f}", f"{outcome.server_cpu:.2f}")


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="For each kind.")
@click.option("--kinds", multiple=True, type=click.Choice([*KINDS]), help="Instead of each alone and all together.")
@click.option("--mutual-tls", is_flag=True, help="With client certificates, which the strangers do not have.")
def main(seconds: float, kinds: tuple[str, ...], *, mutual_tls: bool) -> None:
    """Attack a proxy of two workers on this machine."""
    reached = True
    with tempfile.TemporaryDirectory(prefix="xksproxy-strangers-") as directory:
        tokens, attacks = prepared(Path(directory), [1]), [kinds] if kinds else ATTACKS
        for attack, outcome in attack_in_turn(tokens, Path(directory), seconds, attacks, mutual_tls=mutual_tls):
            _print(attack, outcome)
            reached = reached and outcome.good
    sys.exit(not reached)


def _print(kinds: Sequence[str], outcome: Outcome) -> None:
    new, new_total, kept, kept_total, mib, cpu = cells(outcome)
    click.echo(
        f"{named(kinds):14} new {new:>8} of {new_total:>5}   kept {kept:>8} of {kept_total:>5}"
        f"   largest worker {mib:>4} MiB   processor {cpu:>4}"
    )
    for reason, number in (outcome.new.lost + outcome.kept.lost).most_common(5):
        click.echo(f"    {number:5}  {reason}")


if __name__ == "__main__":
    main()
