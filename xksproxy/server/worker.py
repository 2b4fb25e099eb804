"""A gunicorn worker process: it builds everything after the fork, serves, drains and leaves."""

import asyncio
import os
import sys
from types import FrameType
from typing import Final

from aiohttp.worker import GunicornUVLoopWebWorker

from xksproxy.config.model import Config
from xksproxy.server.acceptor import Acceptor
from xksproxy.server.pipeline import Pipeline
from xksproxy.server.protocol import HttpServer
from xksproxy.server.services import Services
from xksproxy.server.tls import build_context, refusal

_HEARTBEAT_SECONDS: Final = 1.0
_SWITCH_INTERVAL_SECONDS: Final = 0.0001


class XksWorker(GunicornUVLoopWebWorker):
    """Serves the configuration that the master's application loads."""

    def init_process(self) -> None:
        """Set the process up. HSM threads hand over often, so the interpreter switches threads sooner than usual."""
        sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
        super().init_process()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Leave at once, not at the next heartbeat."""
        super().handle_exit(sig, frame)
        self._notify_waiter_done()

    async def _run(self) -> None:
        config: Config = self.wsgi
        services = Services(config)
        pipeline = Pipeline(services, config.server)
        tls = config.server.tls
        server = HttpServer(pipeline.handle, lambda connection: refusal(tls, connection))
        context = build_context(tls)
        acceptors = [
            Acceptor(listener.sock, context, server, config.server.max_connections) for listener in self.sockets
        ]
        services.start()
        for acceptor in acceptors:
            acceptor.start()
        self.booted = True
        await self._beat()

        pipeline.draining = True
        await asyncio.gather(*(acceptor.stop() for acceptor in acceptors))
        server.pre_shutdown()
        await server.shutdown(self.cfg.graceful_timeout)
        services.stop()
        # A call that is stuck in a PKCS#11 module never returns, so the interpreter's own exit could hang.
        sys.stderr.flush()
        os._exit(0)

    async def _beat(self) -> None:
        """Tell the master once a second that this process is alive, until it is told to go."""
        while self.alive:
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("the master process is gone, leaving")
                return
            await self._wait_next_notify()
