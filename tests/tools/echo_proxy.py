"""The least that can be taken for an XKS proxy: HTTP over TLS that "encrypts" by handing the text back.

Run as a program it shows what the load generator alone can do; in tests it does wrong what it is told.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop
from xksproxy_tools.development import certificates

Respond = Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]] | None]
"""From the last segment of the path and the message to status and answer; None leaves it unanswered."""

_CLOSE_SECONDS = 2.0

IV, TAG, METADATA = b"i" * 12, b"t" * 16, b"v1"
HEALTH = {
    "xksProxyFleetSize": 1,
    "xksProxyVendor": "Echo",
    "xksProxyModel": "Echo",
    "ekmVendor": "Echo",
    "ekmFleetDetails": [{"id": "e", "model": "e", "healthStatus": "ACTIVE"}],
}


def echo(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """A right answer."""
    match operation:
        case "encrypt":
            answer = {
                "ciphertext": message["plaintext"],
                "initializationVector": base64.b64encode(IV).decode(),
                "authenticationTag": base64.b64encode(TAG).decode(),
                "ciphertextMetadata": base64.b64encode(METADATA).decode(),
            }
            if "ciphertextDataIntegrityValueAlgorithm" in message:
                answer["ciphertextDataIntegrityValue"] = _integrity_value(message)
            return 200, answer
        case "decrypt":
            return 200, {"plaintext": message["ciphertext"]}
        case "metadata":
            return 200, {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}
        case _:
            return 200, HEALTH


def _integrity_value(message: dict[str, Any]) -> str:
    aad = base64.b64decode(message.get("additionalAuthenticatedData", ""))
    parts = (aad, METADATA, IV, base64.b64decode(message["plaintext"]), TAG)
    return base64.b64encode(hashlib.sha256(b"".join(parts)).digest()).decode()


class EchoConnection(asyncio.Protocol):
    """One connection, kept alive."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while match := re.match(
            rb"POST (\S+) (?s:.*?)\r\ncontent-length: (\d+)(?s:.*?)\r\n\r\n", self._received, re.IGNORECASE
        ):
            end = match.end() + int(match[2])
            if len(self._received) < end:
                return
            body, self._received = self._received[match.end() : end], self._received[end:]
            answer = self._respond(match[1].decode().rpartition("/")[2], json.loads(body))
            if answer is not None:
                self._transport.write(http_response(*answer))


def http_response(status: int, answer: dict[str, Any], *headers: str) -> bytes:
    """A response on the wire."""
    body = json.dumps(answer).encode()
    lines = (f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def make_certificate(directory: Path) -> ssl.SSLContext:
    """A server's context; its CA is ``ca.pem`` in the directory."""
    authority = certificates.create_authority("echo")
    certificate, key = certificates.issue(authority, "localhost", hosts=("localhost", "127.0.0.1"))
    (directory / "ca.pem").write_bytes(certificates.certificate_pem(authority.certificate))
    (directory / "server.pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return context


@contextmanager
def serving(context: ssl.SSLContext, connection: Callable[[], asyncio.Protocol]) -> Iterator[int]:
    """Serve on a thread; the port."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(connection, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            # Before Python 3.12, this waits for connections only if it is called before close().
            closed = asyncio.create_task(server.wait_closed())
            await asyncio.sleep(0)
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task(), closed}:
                task.cancel()
            # A connection whose client has gone during the handshake ends by itself.
            with suppress(TimeoutError):
                await asyncio.wait_for(closed, _CLOSE_SECONDS)

        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _serve_for_ever(port: int, directory: Path) -> None:
    context = make_certificate(directory)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: EchoConnection(echo), "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("directory", type=Path, help="takes the certificates")
    arguments = parser.parse_args()
    uvloop.run(_serve_for_ever(arguments.port, arguments.directory))
