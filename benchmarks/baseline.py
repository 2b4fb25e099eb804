"""The baseline: a server with the parts that every proxy of this kind needs, and nothing else.

It has the same aiohttp, uvloop, gunicorn, TLS and interpreter settings, a thread for each session, and one GCM
encryption and one decryption for each request. It has no SigV4, JSON, key store, log and metrics: it uses bytes of the
body as plaintext and AAD, and responds with as many bytes as an Encrypt does.

    python -m benchmarks.baseline CONFIG PORT (python | native)

CONFIG is a configuration of xksproxy; ``server.workers``, ``server.tls`` and the first ``[[hsm]]`` are used. The
session threads call the module from Python, or are those of the proxy, which call it without the interpreter.
"""

import asyncio
import math
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Protocol

from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication

from benchmarks.tokens import key_id
from xksproxy.config.check import read_pin
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.config.object_names import ObjectName
from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.pkcs11.attributes import KEY_CLASSES, key_template
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

_SWITCH_INTERVAL_SECONDS: Final = 0.0001
_PLAINTEXT_BYTES: Final = 236
_AAD_BYTES: Final = 160
_IV_BYTES: Final = 12
_IVS: Final = 1_000_000
"""For each session; more than a measurement needs."""

_ANSWER: Final = b'{"padding":"%s"}' % (b"x" * 520)


class _Sessions(Protocol):
    async def both(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt, then decrypt the result."""


class _PythonThreads:
    """Threads that make both calls of a request in Python."""

    def __init__(self, connection: Connection, sessions: int) -> None:
        self._connection = connection
        self._jobs: SimpleQueue[tuple[asyncio.Future[bytes], bytes, bytes]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        _start(sessions, self._serve)

    async def both(self, plaintext: bytes, aad: bytes) -> bytes:
        """Make both calls on one thread."""
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._jobs.put((future, plaintext, aad))
        return await future

    def _serve(self) -> None:
        cryptoki, binding = self._connection.cryptoki, self._connection.open_session()
        session = int(binding.handle)
        key = _find_key(self._connection, session)
        while True:
            future, plaintext, aad = self._jobs.get()
            sealed, iv = cryptoki.gcm_encrypt(session, key, iv=os.urandom(_IV_BYTES), aad=aad, plaintext=plaintext)
            opened = cryptoki.gcm_decrypt(session, key, iv=iv, aad=aad, sealed=sealed)
            self._loop.call_soon_threadsafe(future.set_result, opened)


class _Job(Call):
    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[_Job] = asyncio.get_running_loop().create_future()


class _NativeThreads:
    """The call queue and the native sessions of the proxy. Calls are made without the interpreter."""

    def __init__(self, connection: Connection, sessions: int) -> None:
        self._connection = connection
        self._queue: CallQueue[_Job] = CallQueue()
        self._loop = asyncio.get_running_loop()
        self._waking = False
        self._loop.add_reader(self._queue.fileno(), self._settle)
        _start(sessions, self._serve)

    async def both(self, plaintext: bytes, aad: bytes) -> bytes:
        """Queue each call separately."""
        sealed = await self._call(True, b"", aad, plaintext)
        return (await self._call(False, sealed.iv, aad, sealed.output)).output

    async def _call(self, encrypt: bool, iv: bytes, aad: bytes, data: bytes) -> _Job:  # noqa: FBT001 - as Call has it
        job = _Job()
        job.set_gcm(0, None, encrypt, iv, aad, data)
        self._queue.put(job)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        return await job.future

    def _wake(self) -> None:
        self._waking = False
        self._queue.wake()

    def _settle(self) -> None:
        for job in self._queue.finished():
            job.future.set_result(job)

    def _serve(self) -> None:
        binding = self._connection.open_session()
        session = int(binding.handle)
        native_session = NativeSession(
            self._connection.module_lock, session, self._connection.cryptoki.gcm_functions, 0, False
        )
        native_session.arm(0, _find_key(self._connection, session), math.inf, True, True, None)
        native_session.stock(os.urandom(_IVS * _IV_BYTES))
        self._queue.get(0, native_session)
        sys.exit("a call failed, or all IVs are used")


def _start(count: int, serve: Callable[[], None]) -> None:
    for _ in range(count):
        threading.Thread(target=serve, daemon=True).start()


def _find_key(connection: Connection, session: int) -> int:
    templates = (key_template(key_class, ObjectName(key_id(0))) for key_class in KEY_CLASSES)
    return next(handle for template in templates for handle in connection.cryptoki.find_objects(session, template))


_SESSIONS: Final[dict[str, Callable[[Connection, int], _Sessions]]] = {
    "python": _PythonThreads,
    "native": _NativeThreads,
}


class _Runner(web.AppRunner):
    """Uses aiohttp's low-level server, as the proxy does, without a router."""

    def __init__(self, config: Config, threads: str) -> None:
        super().__init__(web.Application())
        self._config = config
        self._threads = threads

    async def _make_server(self) -> web.Server:
        hsm, state = self._config.hsm[0], Path(self._config.state.directory)
        connection = Modules(PinGuard(state), UsageBook(state)).connect(hsm, read_pin(hsm))
        self._sessions = _SESSIONS[self._threads](connection, hsm.sessions)
        return web.Server(self._answer, access_log=None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        aad, plaintext = body[:_AAD_BYTES], body[_AAD_BYTES : _AAD_BYTES + _PLAINTEXT_BYTES]
        await self._sessions.both(plaintext, aad)
        return web.Response(body=_ANSWER, content_type="application/json")


class BaselineWorker(GunicornUVLoopWebWorker):
    """aiohttp's worker with the interpreter settings of the proxy."""

    def init_process(self) -> None:
        """Set the switch interval of the proxy."""
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        super().init_process()


class _Baseline(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, config: Config, port: int, threads: str) -> None:
        self._config = config
        self._port = port
        self._threads = threads
        super().__init__(prog="baseline")

    def load_config(self) -> None:
        tls = self._config.server.tls
        settings: dict[str, Any] = {
            "bind": f"127.0.0.1:{self._port}",
            "workers": self._config.server.workers,
            "worker_class": "benchmarks.baseline.BaselineWorker",
            "keepalive": 300,
            "certfile": tls.certificate,
            "keyfile": tls.private_key,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        async def runner() -> web.AppRunner:
            return _Runner(self._config, self._threads)

        return runner


if __name__ == "__main__":
    _Baseline(load_config(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]).run()
