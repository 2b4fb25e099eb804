"""Minutes of load on two HSMs while faults come and go and workers are killed; `./dev soak` runs it whole.

At any time one of the two HSMs works: the next fault waits until both do. So every answer must be right and in time,
except on connections that a killed worker cut. Then come phases of their own: more than slow HSMs can do, a random
generator that repeats itself, reloads, a restart, and a key that is replaced on one HSM.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from fault_support import FaultyHsm, change_key, compile_fault_module, make_faulty_hsm
from support import REGION, children, make_environment, serve, status, wait_for_port, wait_until_serving
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.load import load_config
from xksproxy.hsm.instance.instance import State
from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.uri import Operation, compose_path

LATENCY_BOUND_MS = 250
"""Above this KMS has given up (R-TIME-1)."""

_POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""The threads for what blocks come one by one, as they are needed, and stay."""

FAULTS = (
    "C_Encrypt hang",
    "C_Decrypt hang",
    "* return 0x30",
    "* return 0x30 rate=0.3",
    "C_EncryptInit return 0x5 count=20",
    "C_Decrypt return 0x6 rate=0.2",
    "C_EncryptInit return 0x31 rate=0.5",
    "C_EncryptInit return 0xb3 rate=0.3",
    "C_DecryptInit return 0x82 count=10",
    "C_Encrypt delay 60",
    "C_Decrypt delay 150 rate=0.5",
    "drop",
    "absent",
    "C_Encrypt segfault",
)
"""What may happen to one of the HSMs; each stands for a while and goes."""

OVERLOADED = frozenset({"ThrottlingException", "DependencyTimeoutException"})
"""What else than an answer is right while more is asked than the HSMs can do."""

PHASE_SECONDS = 6
_RECONNECTS_SECONDS = 60
_RELOADS = 5


@dataclass
class Outcome:
    """What the clients saw."""

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    cut: int = 0
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class Footprint:
    """What the workers hold, summed or at most."""

    workers: int
    rss_mib: float
    threads: int
    descriptors: int


class Soak:
    """A proxy with two HSMs, in a directory of its own."""

    def __init__(self, directory: Path, seed: int, deadline_ms: int | None) -> None:
        self._deadline_ms = deadline_ms
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self.environment, self.hsms = _prepare(directory)
        self._admin = load_config(self.environment.config).admin.listen
        self._log = directory / "log"
        self._phase = ""
        self._sends_again = True
        """Whether a request whose connection is cut is sent again."""
        self._tolerated: frozenset[str] = frozenset()
        """Errors that are right at present."""
        self.process: subprocess.Popen[bytes] | None = None
        self._path = {
            operation: compose_path("/dev", operation, "demo-key")
            for operation in (Operation.ENCRYPT, Operation.DECRYPT)
        }

    async def run(self, seconds: float, rate: float, *, phases: bool = False) -> tuple[Footprint, Footprint]:
        """Load for so long, at so many round trips of Encrypt and Decrypt a second; the footprints before and after.

        With ``phases``, what takes longer than a test may comes after that.
        """
        self.process = serve(self.environment.config, self._log, deadline_ms=self._deadline_ms, forked=False)
        wait_for_port(self.environment.port, self.process)
        await self._recovered()
        context = ssl.create_default_context(cafile=self.environment.authority)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session:
                await self._load(session, 3, rate)
                before = self.footprint()
                self.outcome = Outcome()
                trouble = [asyncio.create_task(self._break_hsms()), asyncio.create_task(self._kill_workers())]
                await self._load(session, seconds, rate)
                for task in trouble:
                    task.cancel()
                for hsm in self.hsms:
                    hsm.tell()
                await self._recovered()
                if phases:
                    await self._run_phases(session, rate)
                outcome, self.outcome = self.outcome, Outcome()
                await self._load(session, 3, rate)
                after = self.footprint()
                outcome.wrong += self.outcome.wrong
                self.outcome = outcome
                return before, after
        finally:
            self.process.terminate()
            self.process.wait(60)

    async def _run_phases(self, session: aiohttp.ClientSession, rate: float) -> None:
        phases = (self._overload, self._repeat_random_bytes, self._reload, self._restart, self._replace_key)
        for phase in phases:
            self._phase = phase.__name__.strip("_")
            self.outcome.faults[self._phase] += 1
            loading = asyncio.create_task(self._load(session, PHASE_SECONDS, rate))
            await phase(session, rate)
            await loading
            self._tolerated = frozenset()

    async def _overload(self, session: aiohttp.ClientSession, rate: float) -> None:
        """Slow HSMs, and then as many further requests as make it more than they can do."""
        self._tolerated = OVERLOADED
        for hsm in self.hsms:
            hsm.tell("C_Encrypt delay 50", "C_Decrypt delay 50")
        sessions = sum(hsm.hsm.sessions for hsm in self.hsms) * len(self.workers())
        await self._load(session, PHASE_SECONDS, max(0.0, sessions / 0.05 - rate))
        for hsm in self.hsms:
            hsm.tell()
        assert self._all_serve(), "an HSM left service because it was slow"

    async def _repeat_random_bytes(self, session: aiohttp.ClientSession, rate: float) -> None:
        """The HSM leaves service as soon as it is noticed, and returns half a minute after the generator is well."""
        self.hsms[0].tell("random constant")
        await asyncio.sleep(PHASE_SECONDS)
        self.hsms[0].tell()
        await self._load(session, 1, rate)
        async with asyncio.timeout(_RECONNECTS_SECONDS):
            await self._recovered()

    async def _reload(self, _: aiohttp.ClientSession, __: float) -> None:
        assert self.process is not None
        for _number in range(_RELOADS):
            text = self.environment.config.read_text()
            old, new = ('"impotent-key"', '"impotent-*"')[:: 1 if '"impotent-key"' in text else -1]
            self.environment.config.write_text(text.replace(old, new))
            self.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(PHASE_SECONDS / _RELOADS)

    async def _restart(self, _: aiohttp.ClientSession, __: float) -> None:
        """SIGTERM and a new start. Requests that find nobody listening are given up, or all would come at once."""
        assert self.process is not None
        self._sends_again = False
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 60)
        self.process = serve(self.environment.config, self._log, deadline_ms=self._deadline_ms, forked=False)
        await self._recovered()
        self._sends_again = True

    async def _replace_key(self, _: aiohttp.ClientSession, __: float) -> None:
        """Another key under the label, on one HSM for good: it refuses the key, and the other one answers."""
        pin = (self.environment.directory / "pin").read_text().strip()
        for value in (None, os.urandom(32)):
            await asyncio.to_thread(change_key, self.hsms[1], pin, "demo-key", value)

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        assert self.process is not None
        return sorted(children(self.process.pid))

    async def _recovered(self) -> None:
        """Wait until every worker serves with both HSMs, and no call is stuck in one."""
        assert self.process is not None
        await asyncio.to_thread(wait_until_serving, self.environment.config, self.process)
        while not await asyncio.to_thread(self._all_serve):  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.1)

    def _all_serve(self) -> bool:
        """Whether the workers say so; those views are half a second old at most."""
        try:
            hsms = status(self._admin)["hsms"]
        except OSError:  # the worker that was to answer was killed
            return False
        return len(hsms) == len(self.hsms) and all(
            hsm["state"] == State.SERVING.value
            and hsm["workers_served"] == hsm["workers"]
            and not hsm["stuck_sessions"]
            for hsm in hsms
        )

    def footprint(self) -> Footprint:
        """Largest memory, threads and descriptors of a worker."""
        pids = self.workers()
        status = [
            dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()) for pid in pids
        ]
        return Footprint(
            len(pids),
            max(int(item["VmRSS"].split()[0]) / 1024 for item in status),
            max(int(item["Threads"]) for item in status),
            max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
        )

    async def _load(self, session: aiohttp.ClientSession, seconds: float, rate: float) -> None:
        """Open loop: round trips begin at their time, whether or not others have ended."""
        started = time.monotonic()
        tasks = []
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(self._round_trip(session, number)))
        await asyncio.gather(*tasks)

    async def _round_trip(self, session: aiohttp.ClientSession, number: int) -> None:
        plaintext = os.urandom(32 + number % 200)
        message: dict[str, Any] = {"plaintext": _base64(plaintext)}
        if number % 2:
            message["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256"
        sealed = await self._call(session, Operation.ENCRYPT, message)
        if sealed is None:
            return
        fields = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
        opened = await self._call(session, Operation.DECRYPT, {name: sealed[name] for name in fields})
        if opened is not None and opened["plaintext"] != _base64(plaintext):
            self.outcome.wrong.append("a decryption gave another plaintext")

    async def _call(
        self, session: aiohttp.ClientSession, operation: Operation, message: dict[str, Any]
    ) -> dict[str, Any] | None:
        """One request; one whose connection is cut is sent again, as KMS's callers do."""
        path = self._path[operation]
        host = f"localhost:{self.environment.port}"
        metadata = {"awsPrincipalArn": "arn", "kmsKeyArn": "arn", "kmsOperation": "Encrypt", "kmsRequestId": "soak"}
        body = json.dumps({"requestMetadata": metadata, "encryptionAlgorithm": "AES_GCM", **message}).encode()
        while True:
            credential = self.environment.credential
            headers = signed_headers(credential, REGION, host=host, path=path, body=body, now=time.time())
            started = time.monotonic()
            try:
                async with session.post(f"https://{host}{path}", data=body, headers=headers) as response:
                    answer: dict[str, Any] = json.loads(await response.read())
            except (aiohttp.ClientError, ConnectionError):
                self.outcome.cut += 1
                if not self._sends_again:
                    return None
                await asyncio.sleep(0.05)
                continue
            if not self._tolerated:
                self.outcome.latencies_ms.append(1000 * (time.monotonic() - started))
            name = answer.get("errorName", "ok")
            self.outcome.statuses[f"{response.status} {name}"] += 1
            if response.status == 200:
                return answer
            if name not in self._tolerated:
                self.outcome.wrong.append(" ".join((operation.value, str(response.status), name, self._phase)))
            return None

    async def _break_hsms(self) -> None:
        """One HSM at a time gets a fault, for half a second to three; then a pause, and until both work."""
        while True:
            victim, fault = self.random.choice(self.hsms), self.random.choice(FAULTS)
            self.outcome.faults[fault] += 1
            victim.tell(fault)
            await asyncio.sleep(self.random.uniform(0.5, 3))
            victim.tell()
            await asyncio.sleep(self.random.uniform(1.5, 3))
            while not await asyncio.to_thread(self._all_serve):  # noqa: ASYNC110 - what is waited for knows no event
                await asyncio.sleep(0.1)

    async def _kill_workers(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(4, 8))
            pids = self.workers()
            if len(pids) > 1:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(pids), signal.SIGKILL)
                self.outcome.kills += 1


def _prepare(directory: Path) -> tuple[DevEnvironment, list[FaultyHsm]]:
    """The environment of `xksproxy dev`, its token copied into two faulty HSMs."""
    environment = make_environment(directory / "dev")
    like = load_config(environment.config).hsm[0]
    fault_module = compile_fault_module(directory)
    hsms = [
        make_faulty_hsm(directory, name, fault_module, environment.directory / "tokens", like)
        for name in ("hsm-a", "hsm-b")
    ]
    text = environment.config.read_text()
    table = text[text.index("[[hsm]]") : text.index("[[keystore]]")]
    tables = "".join(
        f'[[hsm]]\nid = "{item.hsm.id}"\nmodule = "{item.hsm.module}"\npreset = "softhsm2"\n'
        f'token = "{item.hsm.token}"\npin = {{ file = "pin" }}\ncheck_interval_s = 2\n'
        f'environment = {{ SOFTHSM2_CONF = "{item.hsm.environment["SOFTHSM2_CONF"]}" }}\n\n'
        for item in hsms
    )
    text = text.replace(table, tables).replace('hsms = ["softhsm"]', 'hsms = ["hsm-a", "hsm-b"]')
    environment.config.write_text(
        text.replace('[logging]\nformat = "console"', '[logging]\nformat = "json"\nlevel = "warning"')
    )
    return DevEnvironment(environment.directory, environment.port), hsms


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def report(outcome: Outcome, before: Footprint, after: Footprint) -> str:
    """The summary as a table."""
    rows = [
        ("answers", sum(outcome.statuses.values())),
        *sorted(outcome.statuses.items()),
        ("connections cut", outcome.cut),
        ("workers killed", outcome.kills),
        ("faults", sum(outcome.faults.values())),
        *((f"latency {name} ms", f"{outcome.percentile(share):.1f}") for name, share in _PERCENTILES),
        ("latency max ms", f"{max(outcome.latencies_ms):.1f}"),
        *((f"worker {name}, before → after", f"{_of(before, name)} → {_of(after, name)}") for name in _FOOTPRINT),
    ]
    return "\n".join(f"{name:36} {value}" for name, value in rows)


_PERCENTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
_FOOTPRINT = ("rss_mib", "threads", "descriptors")


def _of(footprint: Footprint, name: str) -> str:
    value = getattr(footprint, name)
    return f"{value:.0f}"


def problems(
    outcome: Outcome, before: Footprint, after: Footprint, *, latency_bound_ms: float | None = LATENCY_BOUND_MS
) -> list[str]:
    """What was not as it must be. Without ``latency_bound_ms`` nothing depends on how fast the machine is."""
    found = [f"{count} x {what}" for what, count in Counter(outcome.wrong).items()]
    if latency_bound_ms is not None and outcome.percentile(0.999) > latency_bound_ms:
        found.append(f"p99.9 is {outcome.percentile(0.999):.0f} ms, above {latency_bound_ms:.0f}")
    if (
        after.rss_mib > 1.3 * before.rss_mib
        or after.threads > before.threads + _POOL_THREADS
        or after.workers != before.workers
    ):
        found.append(f"a worker grew: {before} → {after}")
    return found


async def soak(
    directory: Path, seconds: float, rate: float, seed: int, deadline_ms: int | None = None, *, phases: bool = False
) -> tuple[Outcome, Footprint, Footprint]:
    """Run it in a new directory; ``deadline_ms`` in place of the configured deadline, 200 ms, and above its limit."""
    run = Soak(directory, seed, deadline_ms)
    before, after = await run.run(seconds, rate, phases=phases)
    return run.outcome, before, after


def main() -> int:
    """The command line of `./dev soak`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--rate", type=float, default=100, help="round trips a second")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        outcome, before, after = asyncio.run(
            soak(Path(directory), arguments.seconds, arguments.rate, arguments.seed, phases=True)
        )
    print(report(outcome, before, after))  # noqa: T201 - its purpose
    found = problems(outcome, before, after)
    print("\n".join(f"PROBLEM: {item}" for item in found) or "every answer was right and in time")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
