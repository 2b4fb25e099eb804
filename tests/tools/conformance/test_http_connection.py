"""Reading HTTP/1.1 strictly, whatever a proxy sends."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.http_connection import (
    ConnectionEnded,
    HttpConnection,
    HttpResponse,
    NoResponse,
    NotHttp,
)

Answering = Callable[[bytes], HttpConnection]
BODY = b'{"errorName":"ValidationException"}'


@pytest.fixture
def answering(running_stub: StubProxy) -> Iterator[Answering]:
    """Connections to a server that answers the first bytes it gets with what it was given, and closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(running_stub.certificates.of("server"))
    trusting = ssl.create_default_context(cafile=running_stub.certificates.authority)
    wires: list[HttpConnection] = []
    threads: list[threading.Thread] = []

    def serve(listener: socket.socket, answer: bytes) -> None:
        with listener, suppress(OSError):
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(65536)
                secured.sendall(answer)
                secured.unwrap()

    def connect(answer: bytes) -> HttpConnection:
        listener = socket.create_server(("127.0.0.1", 0))
        threads.append(threading.Thread(target=serve, args=(listener, answer)))
        threads[-1].start()
        wires.append(HttpConnection(("localhost", listener.getsockname()[1]), trusting, timeout=20.0))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()
    for thread in threads:
        thread.join()


def head(*lines: str, status: str = "HTTP/1.1 400 Bad Request") -> bytes:
    return "\r\n".join((status, *lines, "", "")).encode("latin-1")


def ask(answering: Answering, answer: bytes, method: str = "POST") -> HttpResponse:
    return answering(answer).exchange(b"whatever", method)


def test_a_response_is_read_as_it_stands(answering: Answering) -> None:
    response = ask(answering, head("Content-Length: 35", "X-A: 1", "x-a:  2 ", "Connection: Close") + BODY)

    assert (response.version, response.status, response.content) == ("HTTP/1.1", 400, BODY)
    assert response.header("x-a") == "1, 2"
    assert response.header("x-b") is None
    assert response.closes
    assert response.json() == {"errorName": "ValidationException"}
    assert response.milliseconds > 0


def test_responses_that_were_pipelined_are_read_one_by_one(answering: Answering) -> None:
    first, second = head("Content-Length: 2") + b"{}", head("Content-Length: 3") + b"[1]"
    wire = answering(first + second)

    assert wire.exchange(b"whatever").content == b"{}"
    assert wire.read().content == b"[1]"
    assert wire.read_until_closed() == b""


@pytest.mark.parametrize(
    "answer",
    [
        head("Transfer-Encoding: chunked") + b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n",
        head("Content-Length: 13", "Content-Length: 13") + b"abc0123456789",
        head("Connection: close") + b"abc0123456789",
        head("Content-Length: 13", status="HTTP/1.1 400") + b"abc0123456789",
        head(status="HTTP/1.1 100 Continue") + head("Content-Length: 13") + b"abc0123456789",
    ],
    ids=["chunked", "one length twice", "until the end", "no reason", "after 100 Continue"],
)
def test_every_legal_form_of_a_body_is_read(answering: Answering, answer: bytes) -> None:
    assert ask(answering, answer).content == b"abc0123456789"


def test_there_is_no_body_where_http_has_none(answering: Answering) -> None:
    assert ask(answering, head(status="HTTP/1.1 204 No Content")).content == b""
    assert ask(answering, head("Content-Length: 13"), method="HEAD").content == b""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        head("Content-Length 2") + b"{}",
        head(" Content-Length: 2") + b"{}",
        head("Content-Length: 2", "Content-Length: 3") + b"{}",
        head("Content-Length: two") + b"{}",
        head("Content-Length: -2") + b"{}",
        head("Content-Length: 999999999") + b"{}",
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        head("Transfer-Encoding: gzip") + b"{}",
        head("Transfer-Encoding: chunked") + b"x\r\n",
        head("Transfer-Encoding: chunked") + b"1\r\naXX0\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"FFFFFFFF\r\n",
        head(*(f"X-{number}: 1" for number in range(300))) + b"{}",
    ],
)
def test_what_is_not_http_1_1_is_refused(answering: Answering, answer: bytes) -> None:
    with pytest.raises(NotHttp):
        ask(answering, answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        head("Content-Length: 3") + b"{}",
        head("Transfer-Encoding: chunked") + b"5\r\nabc",
        head(status="HTTP/1.1 100 Continue"),
    ],
)
def test_an_end_before_the_end_of_the_response_is_told(answering: Answering, answer: bytes) -> None:
    with pytest.raises(ConnectionEnded) as caught:
        ask(answering, answer)

    # An exchange may be tried again only if nothing of an answer has come.
    assert isinstance(caught.value, NoResponse) is (answer in (b"", head(status="HTTP/1.1 100 Continue")))


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_json_object_is_shown_by_its_beginning(content: bytes) -> None:
    response = HttpResponse("HTTP/1.1", 500, (), content, 1.0)

    with pytest.raises(NotHttp, match="status 500 with a body that is not a JSON object"):
        response.json()
    assert len(str(response)) < 400


def test_a_response_is_told_without_its_values_and_without_control_characters() -> None:
    success = HttpResponse("HTTP/1.1", 200, (), b'{"plaintext":"c2VjcmV0"}', 1.0)
    error = HttpResponse("HTTP/1.1", 400, (), b'{"errorName":"\\u001b[31mred"}', 1.0)
    name = HttpResponse("HTTP/1.1", 200, (), b'{"\\u001b":1}', 1.0)

    assert str(success) == "status 200 with the members plaintext"
    assert str(error) == "status 400 ?[31mred"
    assert str(name) == "status 200 with the members ?"


@pytest.mark.parametrize(
    ("version", "connection", "closes"),
    [
        ("HTTP/1.1", None, False),
        ("HTTP/1.1", "keep-alive", False),
        ("HTTP/1.1", "upgrade, Close", True),
        ("HTTP/1.0", None, True),
        ("HTTP/1.0", "Keep-Alive", False),
    ],
)
def test_whether_a_connection_goes_on(version: str, connection: str | None, closes: bool) -> None:
    headers = () if connection is None else (("connection", connection),)

    assert HttpResponse(version, 200, headers, b"{}", 1.0).closes is closes
