"""Assigns requests to connections in the order of arrival, and limits the time of each request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from xksproxy.client.target import Target
from xksproxy_tools.load.connections import Connections
from xksproxy_tools.load.http_connection import Connection, Response
from xksproxy_tools.load.requests import Request

_SWEEP_SECONDS: Final = 0.05


class Exchange:
    """A request in progress. Times are on the monotonic clock; :attr:`sent` is infinity until the request is sent."""

    __slots__ = ("dispatched", "on_end", "request", "scheduled", "sent")

    def __init__(
        self,
        request: Request,
        scheduled: float,
        dispatched: float,
        on_end: Callable[["Exchange", float, Response | None, str], None],
    ) -> None:
        """``on_end`` is called once, with the time and either the response or the reason of the failure."""
        self.request = request
        self.scheduled = scheduled
        """The due time."""
        self.dispatched = dispatched
        """The time at which the generator submitted the request."""
        self.sent = float("inf")
        self.on_end = on_end


class Dispatcher:
    """Owns the connections. It waits ``give_up_after`` seconds for a connection, and as long for a response."""

    def __init__(self, target: Target, connections: int, give_up_after: float) -> None:
        self._give_up_after = give_up_after
        self._busy: set[Connection] = set()
        self.waiting: deque[Exchange] = deque()
        self.connections = Connections(target, connections, self, self._serve_waiting)

    @property
    def outstanding(self) -> int:
        """Requests that have not ended."""
        return len(self._busy) + len(self.waiting)

    def submit(self, exchange: Exchange) -> None:
        """Send a request now, or when a connection is free."""
        if self.connections.idle:
            self._send(self.connections.idle.popleft(), exchange)
        else:
            self.waiting.append(exchange)

    async def exchange(self, request: Request) -> Response:
        """Send a request and wait for the response.

        Raises:
            ConnectionError: there is no response; the text gives the reason.
        """
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def end(_exchange: Exchange, _now: float, response: Response | None, reason: str) -> None:
            if not future.done():
                if response is None:
                    future.set_exception(ConnectionError(reason))
                else:
                    future.set_result(response)

        now = time.monotonic()
        self.submit(Exchange(request, now, now, end))
        return await future

    async def expire_overdue_requests(self) -> None:
        """End requests that exceed the time limit, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._sweep(time.monotonic())

    def close(self) -> None:
        """Close all connections. ``on_end`` is not called for requests in progress."""
        self.connections.close()
        self._busy.clear()
        self.waiting.clear()

    def answered(self, connection: Connection, response: Response) -> None:
        """Called by a connection."""
        now = time.monotonic()
        exchange: Exchange = connection.exchange
        connection.exchange = None
        self._busy.discard(connection)
        if response.closes:
            connection.close()
            self.connections.replace("connection closed after an answer")
        else:
            self.connections.idle.append(connection)
            self._serve_waiting()
        exchange.on_end(exchange, now, response, "")

    def lost(self, connection: Connection, reason: str) -> None:
        """Called by a connection."""
        now = time.monotonic()
        exchange: Exchange | None = connection.exchange
        self.connections.replace(reason)
        if exchange is None:
            if connection in self.connections.idle:
                self.connections.idle.remove(connection)
            return
        self._busy.discard(connection)
        exchange.on_end(exchange, now, None, reason)

    def _serve_waiting(self) -> None:
        while self.waiting and self.connections.idle:
            self._send(self.connections.idle.popleft(), self.waiting.popleft())

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        connection.exchange = exchange
        self._busy.add(connection)
        exchange.sent = time.monotonic()
        connection.write(exchange.request.wire)

    def _sweep(self, now: float) -> None:
        oldest = now - self._give_up_after
        for connection in [item for item in self._busy if item.exchange.sent < oldest]:
            connection.abort(f"no answer within {self._give_up_after:g} s")
        while self.waiting and self.waiting[0].scheduled < oldest:
            exchange = self.waiting.popleft()
            exchange.on_end(exchange, now, None, f"no connection free within {self._give_up_after:g} s")
