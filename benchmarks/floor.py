"""The floor: what the parts cost that no proxy of this kind can do without, and nothing else.

The same aiohttp, uvloop, gunicorn and TLS, the same session threads and interpreter settings, and for each request one
GCM encryption and one decryption of it. No SigV4, no JSON, no key store, no log, no metrics: it takes bytes of the
body as text and AAD, and answers as many bytes as an Encrypt does.

    python -m benchmarks.floor CONFIG PORT

CONFIG is a configuration of xksproxy, of which ``server.workers``, ``server.tls`` and the first ``[[hsm]]`` count.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from aiohttp import web
from aiohttp.worker import GunicornUVLoopWebWorker
from gunicorn.app.base import BaseApplication

from benchmarks.tokens import key_id
from xksproxy.config.check import read_pin
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.hsm.keys import KEY_CLASSES, key_template
from xksproxy.hsm.module import Connection, Modules
from xksproxy.hsm.pinguard import PinGuard
from xksproxy.state.usage import UsageBook

_SWITCH_INTERVAL_SECONDS: Final = 0.0001
_PLAINTEXT_BYTES: Final = 236
_AAD_BYTES: Final = 160
_ANSWER: Final = b'{"padding":"%s"}' % (b"x" * 520)

Job = tuple[asyncio.Future[bytes], bytes, bytes]


class _Lane(threading.Thread):
    """A thread with a session of its own, and the handle of the one key."""

    def __init__(self, connection: Connection, jobs: "SimpleQueue[Job]") -> None:
        super().__init__(daemon=True)
        self._cryptoki = connection.cryptoki
        self._binding = connection.open_session()
        self._session: int = self._binding.handle
        self._jobs = jobs
        self._loop = asyncio.get_running_loop()
        templates = (key_template(key_class, key_id(0)) for key_class in KEY_CLASSES)
        self._key = next(
            handle for template in templates for handle in self._cryptoki.find_objects(self._session, template)
        )

    def run(self) -> None:
        """Serve the queue."""
        while True:
            future, plaintext, aad = self._jobs.get()
            sealed, iv = self._cryptoki.gcm_encrypt(
                self._session, self._key, iv=os.urandom(12), aad=aad, plaintext=plaintext
            )
            opened = self._cryptoki.gcm_decrypt(self._session, self._key, iv=iv, aad=aad, sealed=sealed)
            self._loop.call_soon_threadsafe(future.set_result, opened)


class _Runner(web.AppRunner):
    """Serves with aiohttp's bare server, as the proxy does, and not through an application's router."""

    def __init__(self, config: Config) -> None:
        super().__init__(web.Application())
        self._config = config
        self._jobs: SimpleQueue[Job] = SimpleQueue()

    async def _make_server(self) -> web.Server:
        hsm, state = self._config.hsm[0], Path(self._config.state.directory)
        connection = Modules(PinGuard(state), UsageBook(state)).connect(hsm, read_pin(hsm))
        for _ in range(hsm.sessions):
            _Lane(connection, self._jobs).start()
        return web.Server(self._answer, access_log=None)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        aad, plaintext = body[:_AAD_BYTES], body[_AAD_BYTES : _AAD_BYTES + _PLAINTEXT_BYTES]
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, plaintext, aad))
        await future
        return web.Response(body=_ANSWER, content_type="application/json")


class FloorWorker(GunicornUVLoopWebWorker):
    """aiohttp's worker with the interpreter set as in the proxy."""

    def init_process(self) -> None:
        """The proxy's setting for threads that hand over often."""
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        super().init_process()


class _Floor(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, config: Config, port: int) -> None:
        self._config = config
        self._port = port
        super().__init__(prog="floor")

    def load_config(self) -> None:
        tls = self._config.server.tls
        settings: dict[str, Any] = {
            "bind": f"127.0.0.1:{self._port}",
            "workers": self._config.server.workers,
            "worker_class": "benchmarks.floor.FloorWorker",
            "keepalive": 300,
            "certfile": tls.certificate,
            "keyfile": tls.private_key,
            "control_socket_disable": True,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        async def runner() -> web.AppRunner:
            return _Runner(self._config)

        return runner


if __name__ == "__main__":
    _Floor(load_config(Path(sys.argv[1])), int(sys.argv[2])).run()
