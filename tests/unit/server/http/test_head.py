"""One grammar for the head of a request: what two parsers could understand in two ways is refused."""

import pytest

from xksproxy.server.http.errors import BadRequest
from xksproxy.server.http.head import MAXIMUM_FIELDS, MAXIMUM_HEAD_BYTES, Head
from xksproxy.server.http.reader import RequestReader

FIELDS = b"Host: x\r\nContent-Length: 2\r\n"


def parsed(data: bytes) -> Head | None:
    """The head at the beginning of what was received; the rest of the connection may never come."""
    reader = RequestReader()
    reader.feed(data)
    return reader.head()


def with_line(line: bytes) -> bytes:
    return line + b"\r\nHost: x\r\n\r\n"


def with_field(field: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n"


def test_a_head_is_parsed_unchanged() -> None:
    head = parsed(b"POST /a%2f/../b?c HTTP/1.1\r\nHost: x\r\nA:  b  c\t\r\na: d\r\nContent-Length: 007\r\n\r\nrest")

    assert head is not None
    assert (head.method, head.target, head.length) == ("POST", "/a%2f/../b?c", 7)
    assert head.headers == {"host": ["x"], "a": ["b  c", "d"], "content-length": ["007"]}


def test_bytes_beyond_ascii_turn_back_into_themselves() -> None:
    value = bytes(byte for byte in range(128, 256))
    head = parsed(with_field(b"A: \xa0" + value + b"\xa0"))

    assert head is not None
    assert head.headers["a"][0].encode("utf-8", "surrogateescape") == b"\xa0" + value + b"\xa0"


@pytest.mark.parametrize("value", ["\xa0", "\x85", "\u2003", "\u3000"])
def test_only_blanks_and_tabs_around_a_value_are_not_part_of_it(value: str) -> None:
    head = parsed(with_field(b"A: \t" + value.encode() + b"b" + value.encode() + b"\t "))

    assert head is not None
    assert head.headers["a"] == [f"{value}b{value}"]


REQUEST_LINES = [
    b"",
    b"POST",
    b"POST /",
    b"POST / HTTP/1.1 ",
    b" POST / HTTP/1.1",
    b"POST  / HTTP/1.1",
    b"POST /  HTTP/1.1",
    b"POST\t/ HTTP/1.1",
    b"POST / x HTTP/1.1",
    b"POST \xa0 HTTP/1.1",
    b"POST /\xc3\xa9 HTTP/1.1",
    b"POST /\x7f HTTP/1.1",
    b"P\x00ST / HTTP/1.1",
    b"P(ST / HTTP/1.1",
    b"{} / HTTP/1.1",
    b"HTTP/1.1 200 OK",
    b"\r\nPOST / HTTP/1.1",
    b"\x16\x03\x01\x02\x00",
]
VERSIONS = [
    b"",
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/1.10",
    b"HTTP/2",
    b"HTTP /1.1",
    b"HTTP/1.1\xa0",
    b"http/1.1",
]
FIELD_LINES = [
    b"no colon",
    b": nameless",
    b"A : b",
    b"A\t: b",
    b" A: b",
    b"\tA: b",
    b"A: b\r\n c",
    b"A: b\r\n\tc",
    b"A: b\r\n \r\nB: c",
    b"A: b\x00c",
    b"A\x00: b",
    b"A: b\x1f",
    b"A: b\x7f",
    b"A: b\rc",
    b"A: b\r\r\nB: c",
    b"A: b\nB: c",
    b"A: b\n\nGET / HTTP/1.1",
    b"A(: b",
    b"A\xa0: b",
    b"\xc3\x96: b",
    b"Host: y",
    b"host: x",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
]
LENGTHS = [
    b"Content-Length: -1",
    b"Content-Length: +2",
    b"Content-Length: 2, 2",
    b"Content-Length: 0x2",
    b"Content-Length:",
    b"Content-Length: ten",
    b'Content-Length: "2"',
    b"Content-Length: \xc2\xb2",
    b"Content-Length: \xa02",
    b"Content-Length: 99999999999999999999999999",
    b"Content-Length: 2\r\nContent-Length: 2",
    b"Content-Length: 2\r\nContent-Length: 3",
    b"Content-Length: 2\r\ncontent-length: 2",
    b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: 2",
]
CODINGS = [
    b"Transfer-Encoding:",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: Chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: \xa0chunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer_Encoding : chunked",
    b"Transfer-Encoding : chunked",
]


@pytest.mark.parametrize(
    "data",
    [
        *map(with_line, REQUEST_LINES),
        *(with_line(b"POST / " + version) for version in VERSIONS),
        *map(with_field, [*FIELD_LINES, *LENGTHS, *CODINGS]),
        b"POST / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\nHost: x\n\n",
        b"POST / HTTP/1.1\r\nHost: x\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\n\n",
        b"POST / HTTP/1.1\r\rHost: x\r\r",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 64 + b"\r\n\r\n",
        b"\xff" * 64 + b"\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parsed(data)


@pytest.mark.parametrize("part", [b"\x00", b"POST / HTTP/1.1\n", b"POST / HTTP/1.1\r\nA: b\rc", b"\x16\x03\x01"])
def test_what_can_become_no_head_is_refused_before_its_end(part: bytes) -> None:
    with pytest.raises(BadRequest):
        parsed(part)


def test_a_head_may_come_byte_by_byte() -> None:
    reader, data = RequestReader(), b"POST / HTTP/1.1\r\n" + FIELDS + b"\r\n"
    for position in range(len(data) - 1):
        reader.feed(data[position : position + 1])
        assert reader.head() is None
    reader.feed(data[-1:])
    head = reader.head()
    assert head is not None
    assert head.length == 2


@pytest.mark.parametrize("size", [MAXIMUM_HEAD_BYTES, MAXIMUM_HEAD_BYTES + 1])
@pytest.mark.parametrize("step", [1000, 100_000])
def test_a_head_is_at_most_16_kib(size: int, step: int) -> None:
    frame = b"POST / HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
    data = frame.replace(b"A: ", b"A: " + b"x" * (size - len(frame)))
    assert len(data) == size
    reader = RequestReader()

    def read() -> Head | None:
        head = None
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
            head = reader.head()
        return head

    if size > MAXIMUM_HEAD_BYTES:
        with pytest.raises(BadRequest, match="16 KiB"):
            read()
    else:
        assert read() is not None


def test_a_head_that_never_ends_is_refused_at_16_kib() -> None:
    with pytest.raises(BadRequest, match="16 KiB"):
        parsed(b"x" * MAXIMUM_HEAD_BYTES)


def test_a_head_has_at_most_64_header_lines() -> None:
    fields = [b"Host: x", *(b"A: %d" % number for number in range(MAXIMUM_FIELDS - 1))]
    assert parsed(b"POST / HTTP/1.1\r\n" + b"\r\n".join(fields) + b"\r\n\r\n") is not None
    with pytest.raises(BadRequest, match="64"):
        parsed(b"POST / HTTP/1.1\r\n" + b"\r\n".join([*fields, b"B: c"]) + b"\r\n\r\n")


@pytest.mark.parametrize(
    ("value", "closes"),
    [(b"close", True), (b"Close", True), (b"keep-alive, close", True), (b"keep-alive", False), (b"closed", False)],
)
def test_whether_the_client_asks_to_close(value: bytes, closes: bool) -> None:
    head = parsed(with_field(b"Connection: " + value))
    assert head is not None
    assert head.closes == closes


@pytest.mark.parametrize(("value", "expects"), [(b"100-continue", True), (b"100-Continue", True), (b"200-ok", False)])
def test_whether_the_client_waits_for_the_word_to_continue(value: bytes, expects: bool) -> None:
    head = parsed(with_field(b"Expect: " + value))
    assert head is not None
    assert head.expects_continue == expects
