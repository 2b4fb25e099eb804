"""Sends a ClientHello without a TLS library, which could not offer obsolete versions or a single suite of TLS 1.3."""

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

SSL_3, TLS_1_0, TLS_1_1, TLS_1_2, TLS_1_3 = 0x0300, 0x0301, 0x0302, 0x0303, 0x0304

OBSOLETE_VERSIONS: Final = {"SSL 3.0": SSL_3, "TLS 1.0": TLS_1_0, "TLS 1.1": TLS_1_1}

SUITES_BEFORE_TLS_1_2: Final = (0xC00A, 0xC014, 0xC009, 0xC013, 0x0039, 0x0033, 0x0035, 0x002F, 0x000A, 0x0005)
"""ECDHE, DHE and RSA with AES-CBC, 3DES and RC4."""

SUITES_OF_KMS: Final = {
    "TLS_AES_256_GCM_SHA384": (TLS_1_3, 0x1302),
    "TLS_CHACHA20_POLY1305_SHA256": (TLS_1_3, 0x1303),
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": (TLS_1_2, 0xC030),
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": (TLS_1_2, 0xC02C),
}
"""R-TLS-2."""

_HANDSHAKE, _ALERT = 22, 21
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_SUPPORTED_VERSIONS: Final = 43
_X25519: Final = 29
_GROUPS: Final = (_X25519, 23, 24, 25)
_SIGNATURES: Final = (0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201)
_ALERTS: Final = {40: "handshake_failure", 47: "illegal_parameter", 70: "protocol_version", 80: "internal_error"}


class HandshakeRefused(Exception):
    """The server refused the handshake; the text says how."""


@dataclass(frozen=True, slots=True)
class ServerHello:
    """The choice of the server."""

    version: int
    suite: int


def exchange_hello(address: tuple[str, int], *, version: int, suites: Sequence[int], timeout: float) -> ServerHello:
    """Offer one version and some suites, and read the choice of the server. The handshake is not continued.

    Raises:
        HandshakeRefused: the server sends an alert, or closes the connection.
        OSError: there is no connection, or no response within ``timeout`` seconds.
    """
    with socket.create_connection(address, timeout=timeout) as connection:
        connection.sendall(_client_hello(address[0], version, suites))
        try:
            kind, content = _record(connection)
        except ConnectionError as error:
            raise HandshakeRefused(f"the connection was ended: {error}") from None
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
    if kind == _ALERT and len(content) == 2:  # noqa: PLR2004 - level and description
        raise HandshakeRefused(f"alert {_ALERTS.get(content[1], content[1])}")
    if kind != _HANDSHAKE or content[:1] != bytes([_SERVER_HELLO]):
        raise HandshakeRefused("the response is not a ServerHello")
    return _server_hello(content[4:])


def _client_hello(host: str, version: int, suites: Sequence[int]) -> bytes:
    offered = b"".join(struct.pack(">H", suite) for suite in suites)
    body = struct.pack(">H", min(version, TLS_1_2)) + os.urandom(32) + _vector(1, os.urandom(32))
    body += _vector(2, offered) + _vector(1, b"\0")
    if version > SSL_3:
        body += _vector(2, _extensions(host, version))
    handshake = bytes([_CLIENT_HELLO]) + _vector(3, body)
    return bytes([_HANDSHAKE]) + struct.pack(">H", min(version, TLS_1_0)) + _vector(2, handshake)


def _extensions(host: str, version: int) -> bytes:
    groups = b"".join(struct.pack(">H", group) for group in _GROUPS)
    signatures = b"".join(struct.pack(">H", scheme) for scheme in _SIGNATURES)
    extensions = {10: _vector(2, groups), 11: _vector(1, b"\0"), 13: _vector(2, signatures)}
    if not host.replace(".", "").isdecimal() and ":" not in host:
        extensions[0] = _vector(2, b"\0" + _vector(2, host.encode("ascii")))
    if version >= TLS_1_3:
        share = struct.pack(">H", _X25519) + _vector(2, os.urandom(32))
        extensions |= {_SUPPORTED_VERSIONS: _vector(1, struct.pack(">H", version)), 51: _vector(2, share)}
    return b"".join(struct.pack(">H", number) + _vector(2, content) for number, content in extensions.items())


def _vector(width: int, content: bytes) -> bytes:
    return len(content).to_bytes(width, "big") + content


def _record(connection: socket.socket) -> tuple[int, bytes]:
    kind, _, length = struct.unpack(">BHH", _exactly(connection, 5))
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            raise ConnectionResetError("without an answer")
        content += piece
    return content


def _server_hello(body: bytes) -> ServerHello:
    """RFC 8446 section 4.1.3; a HelloRetryRequest has the same form."""
    try:
        version = int.from_bytes(body[:2], "big")
        rest = body[35 + body[34] :]
        suite = int.from_bytes(rest[:2], "big")
        extensions = rest[5:]
        while len(extensions) >= 4:  # noqa: PLR2004 - number and length
            number, length = struct.unpack(">HH", extensions[:4])
            if number == _SUPPORTED_VERSIONS:
                version = int.from_bytes(extensions[4:6], "big")
            extensions = extensions[4 + length :]
    except (IndexError, struct.error):
        raise HandshakeRefused("its ServerHello is incomplete") from None
    return ServerHello(version, suite)
