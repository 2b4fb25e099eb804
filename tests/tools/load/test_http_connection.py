import pytest
from xksproxy_tools.load.http_connection import MalformedResponse, Response, parse_response

_PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_CHUNKED = b'HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4;x=y\r\n":1}\r\n0\r\n\r\n'


def _parsed(data: bytes) -> Response:
    response = parse_response(data)
    assert response is not None
    return response


def test_a_response_is_read_with_its_length_or_its_chunks() -> None:
    plain, chunked = _parsed(_PLAIN), _parsed(_CHUNKED)

    assert (plain.status, plain.body, plain.closes) == (200, b"{}", False)
    assert (chunked.status, chunked.body) == (400, b'{"a":1}')


@pytest.mark.parametrize("whole", [_PLAIN, _CHUNKED], ids=["plain", "chunked"])
def test_a_response_is_incomplete_until_its_last_byte(whole: bytes) -> None:
    for end in range(len(whole)):
        assert parse_response(whole[:end]) is None
    assert parse_response(whole) is not None


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nconnection: Close\r\nContent-Length: 2", b"HTTP/1.0 200 OK\r\nContent-Length: 2"]
)
def test_a_server_that_will_close_the_connection_is_recognised(head: bytes) -> None:
    assert _parsed(head + b"\r\n\r\n{}").closes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "status line"),
        (b"HTTP/2 200\r\n\r\n", "status line"),
        (b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", "no Content-Length"),
        (_PLAIN + b"HTTP/1.1", "more than one"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 20_000, "endless head"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 2_000_000, "endless body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n", "chunk"),
    ],
)
def test_an_invalid_response_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedResponse, match=reason):
        parse_response(data)
