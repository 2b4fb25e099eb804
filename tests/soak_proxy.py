"""The proxy of the soak: two HSMs that misbehave on command, and clients that judge every answer."""

import asyncio
import base64
import json
import os
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from fault_support import FaultyHsm, compile_fault_module, make_faulty_hsm
from support import REGION, Process, children, make_environment, serve, status, wait_for_port, wait_until_serving
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.load import load_config
from xksproxy.hsm.instance.instance import State
from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.uri import Operation, compose_path


@dataclass
class Outcome:
    """What the clients saw."""

    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    cut: int = 0
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """What else the report says: measured times, and what this machine cannot run."""

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


class SoakProxy:
    """A proxy with two HSMs, in a directory of its own, and its clients."""

    def __init__(self, directory: Path, deadline_ms: int | None) -> None:
        """``deadline_ms`` in place of the configured deadline, 200 ms, and above its limit."""
        self._deadline_ms = deadline_ms
        self.directory = directory
        self.outcome = Outcome()
        self.environment, self.hsms = _prepare(directory)
        self._admin = load_config(self.environment.config).admin.listen
        self._log = directory / "log"
        self.phase = ""
        """What happens at present, for the report."""
        self.tolerated: frozenset[str] = frozenset()
        """Errors that are right at present."""
        self._sends_again = True
        """Whether a request whose connection is cut is sent again."""
        self._process: Process | None = None
        self._session: aiohttp.ClientSession | None = None
        self._path = {
            operation: compose_path("/dev", operation, "demo-key")
            for operation in (Operation.ENCRYPT, Operation.DECRYPT)
        }

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start it, and end it."""
        self._start()
        wait_for_port(self.environment.port, self.process)
        await self.recovered()
        context = ssl.create_default_context(cafile=self.environment.authority)
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context, limit=0)) as session:
                self._session = session
                yield
        finally:
            self.process.terminate()
            self.process.wait(60)

    def _start(self) -> None:
        self._process = serve(self.environment.config, self._log, deadline_ms=self._deadline_ms, forked=False)

    @property
    def process(self) -> Process:
        """Its master."""
        assert self._process is not None
        return self._process

    def configure(self, change: Callable[[str], str]) -> str:
        """Change the text of its configuration; the text before."""
        text = self.environment.config.read_text()
        self.environment.config.write_text(change(text))
        return text

    def reload(self) -> None:
        """SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    async def restart(self) -> None:
        """SIGTERM and a new start, until each worker has an HSM.

        Requests that find nobody listening are given up, or all would come at once.
        """
        self._sends_again = False
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 60)
        self._start()
        await asyncio.to_thread(wait_until_serving, self.environment.config, self.process)
        self._sends_again = True

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return sorted(children(self.process.pid))

    async def recovered(self) -> None:
        """Wait until every worker serves with every HSM, and no call is stuck in one."""
        await asyncio.to_thread(wait_until_serving, self.environment.config, self.process)
        await self.until(self.all_serve)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to come about."""
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.1)

    def status_of(self, hsm: str) -> dict[str, Any]:
        """What the workers say of an HSM; those views are half a second old at most. Empty while that is not known."""
        try:
            found = status(self._admin)["hsms"]
        except OSError:  # the worker that was to answer was killed
            return {}
        return next((item for item in found if item["id"] == hsm), {})

    def serves(self, hsm: str) -> bool:
        """Whether an HSM serves in every worker, and no call is stuck in it."""
        found = self.status_of(hsm)
        return (
            bool(found)
            and found["state"] == State.SERVING.value
            and found["workers_served"] == found["workers"]
            and not found["stuck_sessions"]
        )

    def all_serve(self) -> bool:
        """Whether both HSMs do."""
        return all(self.serves(item.hsm.id) for item in self.hsms)

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

    async def load(self, seconds: float, rate: float) -> None:
        """Open loop: round trips begin at their time, whether or not others have ended."""
        started = time.monotonic()
        tasks = []
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, started + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(self._round_trip(number)))
        await asyncio.gather(*tasks)

    async def _round_trip(self, number: int) -> None:
        plaintext = os.urandom(32 + number % 200)
        message: dict[str, Any] = {"plaintext": _base64(plaintext)}
        if number % 2:
            message["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256"
        sealed = await self._call(Operation.ENCRYPT, message)
        if sealed is None:
            return
        fields = ("ciphertext", "ciphertextMetadata", "initializationVector", "authenticationTag")
        opened = await self._call(Operation.DECRYPT, {name: sealed[name] for name in fields})
        if opened is not None and opened["plaintext"] != _base64(plaintext):
            self.outcome.wrong.append("a decryption gave another plaintext")

    async def _call(self, operation: Operation, message: dict[str, Any]) -> dict[str, Any] | None:
        """One request; one whose connection is cut is sent again, as KMS's callers do."""
        assert self._session is not None
        path = self._path[operation]
        host = f"localhost:{self.environment.port}"
        metadata = {"awsPrincipalArn": "arn", "kmsKeyArn": "arn", "kmsOperation": "Encrypt", "kmsRequestId": "soak"}
        body = json.dumps({"requestMetadata": metadata, "encryptionAlgorithm": "AES_GCM", **message}).encode()
        while True:
            credential = self.environment.credential
            headers = signed_headers(credential, REGION, host=host, path=path, body=body, now=time.time())
            # While the proxy starts, connections wait until a worker accepts them.
            is_measured, started = self._sends_again, time.monotonic()
            try:
                async with self._session.post(f"https://{host}{path}", data=body, headers=headers) as response:
                    answer: dict[str, Any] = json.loads(await response.read())
            except (aiohttp.ClientError, ConnectionError):
                self.outcome.cut += 1
                if not self._sends_again:
                    return None
                await asyncio.sleep(0.05)
                continue
            if is_measured and not self.tolerated:
                self.outcome.latencies_ms.append(1000 * (time.monotonic() - started))
            name = answer.get("errorName", "ok")
            self.outcome.statuses[f"{response.status} {name}"] += 1
            if response.status == 200:
                return answer
            if name not in self.tolerated:
                self.outcome.wrong.append(" ".join((operation.value, str(response.status), name, self.phase)))
            return None


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
        hsm_table(item.hsm.id, item.hsm.module, item.hsm.token, "pin", item.hsm.environment) for item in hsms
    )
    text = text.replace(table, tables).replace('hsms = ["softhsm"]', 'hsms = ["hsm-a", "hsm-b"]')
    environment.config.write_text(
        text.replace('[logging]\nformat = "console"', '[logging]\nformat = "json"\nlevel = "warning"')
    )
    return DevEnvironment(environment.directory, environment.port), hsms


def hsm_table(name: str, module: str, token: str, pin: str, environment: Mapping[str, str]) -> str:
    """An HSM in the configuration, checked every 2 s. ``pin`` is a file beside it."""
    ((variable, value),) = environment.items()
    return (
        f'[[hsm]]\nid = "{name}"\nmodule = "{module}"\npreset = "softhsm2"\ntoken = "{token}"\n'
        f'pin = {{ file = "{pin}" }}\ncheck_interval_s = 2\nenvironment = {{ {variable} = "{value}" }}\n\n'
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
