"""The connection state of key stores: the operations that each state allows, and the transitions between states.

Transitions continue after a restart of the emulator.

(created) ─► DISCONNECTED ─Connect─► CONNECTING ─ok─► CONNECTED ─Disconnect─► DISCONNECTING ─► DISCONNECTED
                                          └─failure─► FAILED ────Disconnect─► DISCONNECTING
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from xksproxy_tools.kms_emulator.connector import ConnectionFailed, Connector
from xksproxy_tools.kms_emulator.durations import AWS_DURATIONS, Durations
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.kms_errors import not_connected
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import Connection, ConnectionState, KeyStore

_log: Final = logging.getLogger(__name__)

_INVALID_STATE: Final = "CustomKeyStoreInvalidStateException"
_REST: Final = frozenset({ConnectionState.CONNECTED, ConnectionState.DISCONNECTED})
_ALLOWED: Final[Mapping[str, frozenset[ConnectionState]]] = {
    "ConnectCustomKeyStore": _REST | {ConnectionState.CONNECTING},
    "DisconnectCustomKeyStore": frozenset(
        {ConnectionState.CONNECTED, ConnectionState.CONNECTING, ConnectionState.FAILED}
    ),
    "DeleteCustomKeyStore": frozenset({ConnectionState.DISCONNECTED}),
    "UpdateCustomKeyStore": _REST,
    "CreateKey": frozenset({ConnectionState.CONNECTED}),
}


def require_state(operation: str, store: KeyStore, *, states: frozenset[ConnectionState] | None = None) -> None:
    """Refuse an operation that the connection state forbids. ``states`` replaces the states that allow the operation.

    Raises:
        KmsError: CustomKeyStoreInvalidStateException.
    """
    allowed = _ALLOWED[operation] if states is None else states
    if store.connection.state in allowed:
        return
    if operation == "CreateKey" and store.proxy is not None:
        raise not_connected(_INVALID_STATE)
    raise KmsError(
        _INVALID_STATE,
        f"The connection state of {store.id} is {store.connection.state}; "
        f"for this request it must be {' or '.join(sorted(allowed))}.",
    )


class Connections:
    """Makes the transitions, each in its own task. Belongs to one event loop."""

    def __init__(
        self,
        database: Database,
        connector: Connector,
        clock: Callable[[], float],
        durations: Durations = AWS_DURATIONS,
        wait: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``wait`` waits for the rest of a transition, in seconds; tests replace it."""
        self._database = database
        self._connector = connector
        self._clock = clock
        self._durations = durations
        self._wait = wait
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def connect(self, store: KeyStore, request_id: str) -> None:
        """Start to connect. This does nothing if the key store is connecting or connected."""
        if store.connection.state is ConnectionState.DISCONNECTED:
            self._begin(store, ConnectionState.CONNECTING, request_id, self._durations.connect)

    def disconnect(self, store: KeyStore, request_id: str) -> None:
        """Start to disconnect. The key store may also be connecting, or have failed to connect."""
        self._begin(store, ConnectionState.DISCONNECTING, request_id, self._durations.disconnect)

    async def resume(self) -> None:
        """Continue after a restart: start unfinished transitions, and log in to the clusters of connected key stores.

        A key store whose cluster cannot be reached stays CONNECTED, as with KMS.
        """
        stores = self._database.key_stores()
        for store in stores:
            if store.connection.due is not None:
                self._start(store)
        connected = [store for store in stores if store.connected and store.cluster is not None]
        await asyncio.gather(*(self._log_in_again(store) for store in connected))

    async def close(self) -> None:
        """Stop all transitions. The next emulator continues them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, store: KeyStore, state: ConnectionState, request_id: str, seconds: float) -> None:
        connection = Connection(state, request_id=request_id, due=self._clock() + seconds)
        begun = replace(store, connection=connection)
        self._database.put_key_store(begun)
        self._start(begun)

    def _start(self, store: KeyStore) -> None:
        former = self._tasks.pop(store.id, None)
        if former is not None:
            former.cancel()
        steps = self._connecting if store.connection.state is ConnectionState.CONNECTING else self._disconnecting
        self._tasks[store.id] = asyncio.create_task(steps(store))

    async def _connecting(self, store: KeyStore) -> None:
        try:
            await self._connector.connect(store, store.connection.request_id or "")
        except ConnectionFailed as failure:
            _log.warning("key store does not connect", extra=_fields(store, reason=str(failure)))
            self._finish(store, Connection(ConnectionState.FAILED, failure.code))
        except Exception:  # noqa: BLE001 - every failure is a failed connection
            _log.exception("unexpected failure while a key store connects", extra=_fields(store))
            self._finish(store, Connection(ConnectionState.FAILED, "INTERNAL_ERROR"))
        else:
            await self._wait_until_due(store)
            self._finish(store, Connection(ConnectionState.CONNECTED))

    async def _disconnecting(self, store: KeyStore) -> None:
        await self._connector.disconnect(store)
        await self._wait_until_due(store)
        self._finish(store, Connection(ConnectionState.DISCONNECTED))

    async def _log_in_again(self, store: KeyStore) -> None:
        try:
            await self._connector.connect(store, "")
        except ConnectionFailed as failure:
            _log.warning("key store stays CONNECTED, but cannot be used", extra=_fields(store, reason=str(failure)))

    async def _wait_until_due(self, store: KeyStore) -> None:
        await self._wait(max(0.0, (store.connection.due or 0.0) - self._clock()))

    def _finish(self, store: KeyStore, connection: Connection) -> None:
        """Record the end of a transition, unless another one has started."""
        now = self._database.key_store(store.id)
        if now is not None and now.connection == store.connection:
            self._database.put_key_store(replace(now, connection=connection))
            _log.info("connection state changed", extra=_fields(store, state=connection.state))


def _fields(store: KeyStore, **more: str) -> dict[str, dict[str, str]]:
    """The fields of a log line about a key store."""
    return {"fields": {"key_store": store.id, "name": store.name, **more}}
