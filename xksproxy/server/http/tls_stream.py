"""The server's side of TLS, without input or output: :class:`ssl.SSLObject` with buffers in memory.

asyncio's TLS hides unsent bytes from a protocol, starts a task for each handshake, and cannot handle bytes before the
handshake. This class also takes less time for each request.
"""

import ssl
from typing import Any, Final

_READ_BYTES: Final = 64 * 1024


class TlsStream:
    """One TLS connection. After each call, send the bytes of :meth:`outgoing`."""

    __slots__ = ("_incoming", "_object", "_outgoing", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False

    @property
    def connection(self) -> Any:
        """The SSLObject, for its cipher suite and client certificate."""
        return self._object

    def feed(self, data: bytes | memoryview) -> None:
        """Add received bytes."""
        self._incoming.write(data)

    def handshake(self) -> bool:
        """Continue the handshake. Returns whether it is complete.

        Raises:
            ssl.SSLError: it failed. The outgoing bytes are an alert.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def read(self) -> bytes | None:
        """Return decrypted bytes; empty after the client's close_notify; None if there are none yet.

        Raises:
            ssl.SSLError: the received bytes are not valid TLS records of this connection.
        """
        if not (self._incoming.pending or self._object.pending()):
            return None
        try:
            return self._object.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return None

    @property
    def pending(self) -> bool:
        """Whether there are received bytes that were not read."""
        return bool(self._incoming.pending or self._object.pending())

    def write(self, data: bytes) -> None:
        """Encrypt bytes to send."""
        self._object.write(data)

    def outgoing(self) -> bytes:
        """Return the bytes to send, and remove them."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Send close_notify. The client's close_notify is not awaited (RFC 8446, section 6.1)."""
        try:
            self._object.unwrap()
        except ssl.SSLError:  # usually because the client's close_notify has not arrived
            return
