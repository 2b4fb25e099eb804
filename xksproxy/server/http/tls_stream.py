"""The server's side of TLS over bytes that somebody else sends and receives.

asyncio's TLS hides from a protocol what it could not send, starts a task for each handshake, and leaves no place for
bytes before it. This is the standard library's :class:`ssl.SSLObject` without that, and costs less per request.
"""

import ssl
from typing import Any, Final

_READ_BYTES: Final = 64 * 1024


class TlsStream:
    """One TLS connection. What is to be sent is in :meth:`outgoing` after each call."""

    __slots__ = ("_incoming", "_object", "_outgoing", "established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.established = False

    @property
    def connection(self) -> Any:
        """What tells of cipher suite and client certificate."""
        return self._object

    def feed(self, data: bytes | memoryview) -> None:
        """Take over what was received."""
        self._incoming.write(data)

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done.

        Raises:
            ssl.SSLError: it failed; what is to be sent then is an alert.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.established = True
        return True

    def read(self) -> bytes | None:
        """Some of what the client sent, empty at its end; None if there is none yet.

        Raises:
            ssl.SSLError: what was received is not of this connection.
        """
        if not (self._incoming.pending or self._object.pending()):
            return None
        try:
            return self._object.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return None

    @property
    def pending(self) -> bool:
        """Whether something was received that was not read."""
        return bool(self._incoming.pending or self._object.pending())

    def write(self, data: bytes) -> None:
        """Encrypt what is to be sent."""
        self._object.write(data)

    def outgoing(self) -> bytes:
        """What is to be sent, once."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> None:
        """Tell the client that nothing more is sent. Its own farewell is not waited for (RFC 8446 section 6.1)."""
        try:
            self._object.unwrap()
        except ssl.SSLError:  # the usual one: the client's farewell has not come
            return
