"""The stub as a server: TLS on a loopback port, a thread for each connection."""

import io
import socket
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from stub_proxy.api import answer
from stub_proxy.behaviour import Behaviour
from stub_proxy.certificates import make_certificates
from stub_proxy.http import BadHttp, Request, Response, read_request
from stub_proxy.world import make_world

IDLE_SECONDS = 30.0


class StubProxy:
    """Its behaviour can be changed between connections; those that are open keep theirs."""

    def __init__(self, directory: Path) -> None:
        self.world = make_world(directory / "outage")
        self.certificates = make_certificates(directory)
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Inherited by what is accepted: the first answer must not wait for the client to acknowledge TLS's last word.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.behave(Behaviour())
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept() wakes by shutdown(), not by close().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        self._end_connections()

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from now on; connections are ended, so that none keeps the old way."""
        self._service = behaviour, self._context(behaviour)
        self._end_connections()

    def _context(self, behaviour: Behaviour) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificates.of(behaviour.certificate))
        context.load_verify_locations(self.certificates.client_authority)
        context.verify_mode = ssl.CERT_REQUIRED
        behaviour.adjust_tls(context)
        return context

    def _end_connections(self) -> None:
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # TLS takes the socket object over; this one is a second handle on the same connection.
            handle = connection.dup()
            with self._lock:
                self._open.add(handle)
            threading.Thread(target=self._converse, args=(connection, handle, *self._service), daemon=True).start()

    def _converse(
        self, connection: socket.socket, handle: socket.socket, behaviour: Behaviour, context: ssl.SSLContext
    ) -> None:
        connection.settimeout(IDLE_SECONDS)
        try:
            with suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                if behaviour.admit(_common_name(secured.getpeercert())):
                    self._serve(secured, behaviour)
        finally:
            with self._lock:
                self._open.discard(handle)
                handle.close()
            connection.close()

    def _serve(self, secured: ssl.SSLSocket, behaviour: Behaviour) -> None:
        with secured.makefile("rb") as whole:
            closes = False
            while not closes:
                reader = io.BytesIO(secured.recv(65536)) if behaviour.one_read else whole
                try:
                    request = read_request(reader)
                except BadHttp as error:
                    secured.sendall(behaviour.refuse_http(error.status).encode(closes=True))
                    _read_the_rest(whole)
                    return
                else:
                    if request is None:
                        return
                    response = self._answer(request, behaviour)
                    closes = self._closes(request, response, behaviour) or (behaviour.one_read and bool(reader.read()))
                secured.sendall(response.encode(closes=closes))

    def _closes(self, request: Request, response: Response, behaviour: Behaviour) -> bool:
        failed = behaviour.closes_after_errors and response.status != 200
        return request.closes or failed or not behaviour.keep_alive

    def _answer(self, request: Request, behaviour: Behaviour) -> Response:
        if behaviour.delay_seconds:
            time.sleep(behaviour.delay_seconds)
        return answer(self.world, behaviour, request, time.time())


def _read_the_rest(reader: BinaryIO) -> None:
    """A connection that is closed with unread data is reset, and the client may then lose the answer."""
    for _ in range(64):
        if not reader.read(65536):
            return


def _common_name(certificate: dict[str, Any] | None) -> str:
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for name, value in part if name == "commonName"), "")
