"""Bodies out of what was received, by their length or in chunks, and what comes behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.server.http.errors import BodyMalformed, BodyTooLarge
from xksproxy.server.http.reader import RequestReader
from xksproxy.spec.limits import MAXIMUM_BODY_BYTES

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def bodies(data: bytes, step: int = 0) -> list[bytes]:
    """The bodies of all requests in what was received, in pieces of ``step`` bytes."""
    reader, found, in_body = RequestReader(), [], False
    step = step or len(data)
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while True:
            if not in_body:
                if reader.head() is None:
                    break
                in_body = True
            content = reader.body()
            if content is None:
                break
            found.append(content)
            in_body = False
    return found


def sized(content: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


def chunked(content: bytes, size: int, ending: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + ending


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 9)), max_size=5),
    st.integers(1, 60),
)
def test_requests_one_after_another_come_out_as_they_went_in(contents: list[tuple[bytes, int]], step: int) -> None:
    data = b"".join(chunked(content, size) if size else sized(content) for content, size in contents)

    assert bodies(data, step) == [content for content, _ in contents]


@pytest.mark.parametrize(
    "ending",
    [
        b"0\r\n\r\n",
        b"000\r\n\r\n",
        b"0;last\r\n\r\n",
        b"0\r\nA: b\r\n\r\n",
        b"0\r\nA: b\r\nB:\r\n\r\n",
        b"0;a=b;c\r\nX-Other: y\r\n\r\n",
    ],
)
def test_extensions_and_trailers_are_dropped(ending: bytes) -> None:
    assert bodies(chunked(b"abc", 2, ending) + sized(b"next")) == [b"abc", b"next"]


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"3\t;a\r\nabc\r\n0\r\n\r\n",
        b"3;\x00\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabc\r\r\n0\r\n\r\n",
        b"000000003\r\nabc\r\n0\r\n\r\n",
        b"3;" + b"x" * 300 + b"\r\nabc\r\n0\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\nB: c\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\n" + b"A: b\r\n" * 65 + b"\r\n",
        b"0\r\n" + b"A: " + b"b" * 17_000 + b"\r\n\r\n",
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_a_chunk_that_is_framed_wrongly_is_refused(chunks: bytes, step: int) -> None:
    with pytest.raises(BodyMalformed):
        bodies(CHUNKED + chunks, step)


@pytest.mark.parametrize("size", [1, 5000, MAXIMUM_BODY_BYTES])
def test_a_body_of_64_kib_is_read_and_one_byte_more_is_not(size: int) -> None:
    largest = bytes(MAXIMUM_BODY_BYTES)
    assert bodies(chunked(largest, size), 50_000) == bodies(sized(largest), 50_000) == [largest]
    for data in (chunked(largest + b"x", size), sized(largest + b"x")):
        with pytest.raises(BodyTooLarge):
            bodies(data, 50_000)


def test_a_body_announced_as_enormous_is_refused_before_any_of_it_comes() -> None:
    for head in (HEAD + b"Content-Length: 9999999999999999999\r\n\r\n", CHUNKED + b"ffffffff\r\n"):
        with pytest.raises(BodyTooLarge):
            bodies(head)
