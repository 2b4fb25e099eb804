"""Reading HTTP/1.1 strictly, whatever a proxy sends."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from xksproxy_tools.conformance.http_connection import (
    ConnectionEnded,
    HttpConnection,
    HttpResponse,
    NoResponse,
    NotHttp,
)

Answering = Callable[[bytes], HttpConnection]
BODY = b'{"errorName":"ValidationException"}'


class NoTls:
    """In place of an SSLContext."""

    def wrap_socket(self, raw: socket.socket, **_: object) -> socket.socket:
        return raw


@pytest.fixture
def answering() -> Iterator[Answering]:
    """Connections to a server that sends an answer and ends its side of the connection."""
    with ExitStack() as stack:

        def connect(answer: bytes) -> HttpConnection:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            wire = stack.enter_context(HttpConnection(listener.getsockname(), NoTls(), timeout=20.0))
            server = stack.enter_context(listener.accept()[0])
            server.sendall(answer)
            server.shutdown(socket.SHUT_WR)
            return wire

        yield connect


def head(*lines: str, status: str = "HTTP/1.1 400 Bad Request") -> bytes:
    return "\r\n".join((status, *lines, "", "")).encode("latin-1")


def ask(answering: Answering, answer: bytes, method: str = "POST") -> HttpResponse:
    return answering(answer).exchange(b"whatever", method)


def test_a_response_is_read_with_its_headers(answering: Answering) -> None:
    response = ask(answering, head("Content-Length: 35", "X-A: 1", "x-a:  2 ", "Connection: Close") + BODY)

    assert (response.version, response.status, response.content) == ("HTTP/1.1", 400, BODY)
    assert response.header("x-a") == "1, 2"
    assert response.header("x-b") is None
    assert response.closes
    assert response.json() == {"errorName": "ValidationException"}
    assert response.milliseconds > 0


def test_pipelined_responses_are_read_one_by_one(answering: Answering) -> None:
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


def test_responses_without_a_body_are_read(answering: Answering) -> None:
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
def test_an_incomplete_response_is_reported(answering: Answering, answer: bytes) -> None:
    with pytest.raises(ConnectionEnded) as caught:
        ask(answering, answer)

    # An exchange may be tried again only if nothing of an answer has come.
    assert isinstance(caught.value, NoResponse) is (answer in (b"", head(status="HTTP/1.1 100 Continue")))


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b"null"])
def test_a_body_that_is_not_a_json_object_is_shown_in_part(content: bytes) -> None:
    response = HttpResponse("HTTP/1.1", 500, (), content, 1.0)

    with pytest.raises(NotHttp, match="status 500 with a body that is not a JSON object"):
        response.json()
    assert len(str(response)) < 400


def test_a_response_is_shown_without_values_and_control_characters() -> None:
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
def test_a_connection_is_kept_or_closed_by_version_and_header(
    version: str, connection: str | None, closes: bool
) -> None:
    headers = () if connection is None else (("connection", connection),)

    assert HttpResponse(version, 200, headers, b"{}", 1.0).closes is closes
