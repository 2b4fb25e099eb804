"""The baseline: a server with the parts that every proxy of this kind needs, and nothing else.

It has the HTTP, TLS, uvloop, gunicorn and interpreter settings of the proxy, and its call queue and native sessions.
For each request it makes one GCM encryption, hashes the output and decrypts it. It has no SigV4, JSON, key store, log
and metrics: it uses bytes of the body as plaintext and AAD, and responds with as many bytes as an Encrypt does.

    python -m benchmarks.baseline CONFIG PORT

CONFIG is a configuration of xksproxy; ``server.workers``, ``server.tls`` and the first ``[[hsm]]`` are used.
"""

import asyncio
import math
import os
import ssl
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication

from benchmarks.tokens import key_id
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.config.object_names import ObjectName
from xksproxy.config.pins import read_pin
from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.instance.openssl import sha256_address
from xksproxy.hsm.pkcs11.attributes import KEY_CLASSES, key_template
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.server import respond
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.http.connection_table import ConnectionTable
from xksproxy.server.http.listener import Listener
from xksproxy.server.http.messages import Request, Response
from xksproxy.server.http.service import Client, HttpService
from xksproxy.server.peer import PeerReader
from xksproxy.server.tls import build_context
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook

_SWITCH_INTERVAL_SECONDS: Final = 0.0001
_PLAINTEXT_BYTES: Final = 236
_AAD_BYTES: Final = 160
_IV_BYTES: Final = 12
_IVS: Final = 1_000_000
"""For each session; more than a measurement needs."""

_ANSWER: Final = Response(200, b'{"padding":"%s"}' % (b"x" * 520), authenticated=True)


class _Job(Call):
    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[_Job] = asyncio.get_running_loop().create_future()


class _Sessions:
    """The call queue and the native sessions of the proxy. Calls are made without the interpreter."""

    def __init__(self, connection: Connection, sessions: int) -> None:
        self._connection = connection
        self._queue: CallQueue[_Job] = CallQueue()
        self._loop = asyncio.get_running_loop()
        self._waking = False
        self._loop.add_reader(self._queue.fileno(), self._settle)
        for _ in range(sessions):
            threading.Thread(target=self._serve, daemon=True).start()

    async def encrypt_verified(self, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt, hash the output and decrypt it, in one native call."""
        job = _Job()
        job.set_gcm(0, None, True, b"", aad, plaintext)
        job.set_integrity_prefix(aad)
        self._queue.put(job)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        return (await job.future).output

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
            self._connection.module_lock, session, self._connection.cryptoki.gcm_functions, 0, False, sha256_address()
        )
        native_session.allow_key(0, self._find_key(session), math.inf, True, True, None)
        native_session.replace_ivs(os.urandom(_IVS * _IV_BYTES))
        call = self._queue.get(0, native_session)
        sys.stderr.write(f"a call failed, or all IVs are used: {call and call.take_failure()}\n")
        os._exit(1)  # sys.exit would end only this thread, and requests would wait for ever

    def _find_key(self, session: int) -> int:
        templates = (key_template(key_class, ObjectName(key_id(0))) for key_class in KEY_CLASSES)
        cryptoki = self._connection.cryptoki
        return next(handle for template in templates for handle in cryptoki.find_objects(session, template))


@dataclass(frozen=True, slots=True)
class _Terms:
    context: ssl.SSLContext
    clients: object = None

    def admit(self, _: Any) -> Client:
        return Client()


class BaselineWorker(GunicornUVLoopWebWorker):
    """A worker with the interpreter settings of the proxy."""

    def init_process(self) -> None:
        """Set the switch interval of the proxy."""
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        super().init_process()

    async def _run(self) -> None:
        config: Config = self.wsgi
        hsm, state = config.hsm[0], Path(config.state.directory)
        make_directory(state)
        connection = Modules(PinGuard(state), UsageBook(state)).connect(hsm, read_pin(hsm))
        self._sessions = _Sessions(connection, hsm.sessions)
        terms = _Terms(build_context(config.server.tls))
        peers, table = PeerReader(None, lambda _: None), ConnectionTable(config.server.max_connections)
        service = HttpService(self._answer, respond.refusal, lambda: terms, peers, table)
        Listener(self.sockets[0].sock, service, ConnectionCounts()).start()
        while self.alive:
            self.notify()
            await self._wait_next_notify()
        os._exit(0)  # the session threads wait in C

    async def _answer(self, request: Request) -> Response:
        body = await request.body.read()
        await self._sessions.encrypt_verified(body[_AAD_BYTES : _AAD_BYTES + _PLAINTEXT_BYTES], body[:_AAD_BYTES])
        return _ANSWER


class _Baseline(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, config: Config, port: int) -> None:
        self._config = config
        self._port = port
        super().__init__(prog="baseline")

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"127.0.0.1:{self._port}",
            "workers": self._config.server.workers,
            "worker_class": "benchmarks.baseline.BaselineWorker",
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Config:
        return self._config


if __name__ == "__main__":
    _Baseline(load_config(Path(sys.argv[1])), int(sys.argv[2])).run()
