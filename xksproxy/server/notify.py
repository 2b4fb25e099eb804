"""Notifications to systemd, by the protocol of sd_notify(3): ready, watchdog, stopping."""

import socket
import time
from collections.abc import MutableMapping
from typing import Self

_MICROSECONDS = 1_000_000


class ServiceManager:
    """The notify socket of the service. Without one, nothing is sent."""

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self._watchdog_interval = None if watchdog_seconds is None else watchdog_seconds / 3
        self._next_beat = 0.0
        self._ready = False

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> Self:
        """Take the socket and the watchdog interval from the environment, so that no child process uses them."""
        address = environment.pop("NOTIFY_SOCKET", None)
        watchdog = environment.pop("WATCHDOG_USEC", None)
        return cls(address, int(watchdog) / _MICROSECONDS if watchdog else None)

    def report(self, *, serving: bool) -> None:
        """Send READY the first time that the service serves, then WATCHDOG at intervals while it serves."""
        if not serving:
            return
        if not self._ready:
            self._ready = True
            self._send("READY=1\nSTATUS=serving")
        if self._watchdog_interval is not None and time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + self._watchdog_interval
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Send STOPPING."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if self._address is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            try:
                channel.connect(address)
                channel.send(state.encode())
            except OSError:
                return
