"""Whether the proxy ever sees a request where another parser sees none, or a different one.

    ./dev bench framing
    python -m benchmarks.framing [--inputs 100000] [--seed 1]

Inputs are requests that KMS could send, changed where parsers are known to differ: blanks, line ends, lengths, codings,
chunk sizes, versions. Each is read by the proxy's :class:`RequestReader`, in random pieces, and by h11. What h11 reads
and the proxy refuses is counted, and is no fault: the proxy is the stricter one. The reverse is what smuggling is made
of; each is printed, and the exit code is 1.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

import click
import h11

from xksproxy.server.http.errors import BadRequest, BodyMalformed, BodyTooLarge
from xksproxy.server.http.reader import RequestReader


class Seen(NamedTuple):
    """A request as a parser understood it; header names in lower case."""

    method: bytes
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


_FIELDS: Final = (
    b"Host: localhost:8443",
    b"X-Amz-Date: 20261129T110000Z",
    b"Authorization: AWS4-HMAC-SHA256 Credential=A/20261129/eu-west-1/kms-xks-proxy/aws4_request, Signature=0",
    b"Content-Type: application/json",
)
_BODIES: Final = (b"", b"{}", b'{"requestMetadata":{"kmsOperation":"Encrypt"}}', b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
_PIECES: Final = (
    *(b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\r\n", b" ", b"  ", b"\t", b"\x00", b"\x0b", b"\x0c", b"\x1c"),
    *(b"\x85", b"\xa0", b"\xc2\xa0", b"\x7f", b":", b"::", b",", b";", b'"', b"0", b"1", b"-", b"+", b"0x"),
    *(b"0\r\n\r\n", b"5\r\n", b"2;a=b\r\n", b"chunked", b"Chunked", b"gzip, chunked", b"identity", b"close"),
    *(
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"http/1.1",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ),
    *(
        b"\r\nHost: other",
        b"\r\nConnection: close",
        b"\r\nUpgrade: h2c",
        b"\r\nExpect: 100-continue",
        b"\r\nX: \xff\xfe",
    ),
    *(b"\r\nContent-Length: %b" % length for length in (b"0", b"2", b"+2", b"2, 2", b"1_0")),
    *(b"\r\nTransfer-Encoding:%b" % coding for coding in (b" chunked", b"\tchunked", b" identity", b"\x0bchunked")),
    *(b"\r\nTransfer-Encoding : chunked", b"\r\n folded: x", b"\r\n\tfolded"),
)


def inputs(count: int, seed: int) -> Iterator[bytes]:
    """Streams of one to three requests, unchanged or changed in up to four places."""
    rng = random.Random(seed)  # noqa: S311 - the same inputs again for the same seed
    for _ in range(count):
        stream = b"".join(_request(rng) for _ in range(rng.choice((1, 1, 2, 3))))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
            stream = _changed(rng, stream)
        yield stream


def _request(rng: random.Random) -> bytes:
    method = rng.choice((b"POST", b"POST", b"GET", b"HEAD", b"PUT"))
    fields = [*_FIELDS]
    body = rng.choice(_BODIES)
    if rng.random() < 0.4:  # noqa: PLR2004 - a share
        fields.append(b"Transfer-Encoding: chunked")
        body = _chunked(rng, body)
    elif body or rng.random() < 0.5:  # noqa: PLR2004 - a share
        fields.append(b"Content-Length: %d" % len(body))
    rng.shuffle(fields)
    return b"\r\n".join((method + b" /dev/kms/xks/v1/health HTTP/1.1", *fields, b"", body))


def _chunked(rng: random.Random, body: bytes) -> bytes:
    size = rng.choice((1, 5, 100))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    extension = rng.choice((b"", b"", b";a", b";a=b;c"))
    trailer = rng.choice((b"", b"", b"X-Trailer: 1\r\n"))
    return (
        b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
    )


def _changed(rng: random.Random, stream: bytes) -> bytes:
    place = rng.randrange(len(stream) + 1)
    if rng.random() < 0.5:  # noqa: PLR2004 - a share
        # Where structure is: before or after a line end, a colon, a blank, a semicolon.
        places = [index for index, byte in enumerate(stream) if byte in b"\r\n: ;"]
        place = rng.choice(places) + rng.randrange(2) if places else place
    match rng.randrange(6):
        case 0:
            return stream[:place] + bytes([rng.randrange(256)]) + stream[place + 1 :]
        case 1:
            return stream[:place] + stream[place + rng.choice((1, 1, 2, 10)) :]
        case 2:
            end = place + rng.randrange(1, 40)
            return stream[:end] + stream[place:end] + stream[end:]
        case _:
            return stream[:place] + rng.choice(_PIECES) + stream[place:]


def seen_by_proxy(stream: bytes, rng: random.Random) -> tuple[list[Seen], bool]:
    """What the proxy reads from a stream that comes in random pieces, and whether it refused something."""
    reader, position = RequestReader(), 0
    found: list[Seen] = []
    head = None
    try:
        while position < len(stream):
            step = rng.choice((1, 7, 50, len(stream)))
            reader.feed(stream[position : position + step])
            position += step
            while True:
                head = head or reader.head()
                content = None if head is None else reader.body()
                if head is None or content is None:
                    break
                found.append(_of_proxy(head.method, head.target, head.headers, content))
                if head.closes:
                    return found, False
                head = None
    except (BadRequest, BodyMalformed, BodyTooLarge):
        return found, True
    return found, False


def _of_proxy(method: str, target: str, headers: dict[str, list[str]], content: bytes) -> Seen:
    pairs = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name in headers for value in headers[name]]
    return Seen(method.encode(), target.encode(), tuple(sorted(pairs)), content)


def seen_by_h11(stream: bytes) -> tuple[list[Seen], bool]:
    """What h11 reads as a server, and whether it refused something."""
    connection = h11.Connection(h11.SERVER)
    found: list[Seen] = []
    connection.receive_data(stream)
    try:
        while True:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                return found, False
            body = b""
            while isinstance(event := connection.next_event(), h11.Data):
                body += bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                return found, False
            headers = tuple(sorted((bytes(name), bytes(value)) for name, value in request.headers))
            found.append(Seen(bytes(request.method), bytes(request.target), headers, body))
            connection.send(h11.Response(status_code=400, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return found, False
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return found, True


def compare(count: int, seed: int) -> tuple[Counter[str], list[bytes]]:
    """How often which of the two refused, and the inputs in which the proxy sees what h11 does not."""
    rng = random.Random(seed)  # noqa: S311 - as above
    counts: Counter[str] = Counter()
    faults = []
    for stream in inputs(count, seed):
        ours, we_refused = seen_by_proxy(stream, rng)
        others, they_refused = seen_by_h11(stream)
        if ours != others[: len(ours)]:
            counts["seen by the proxy alone"] += 1
            faults.append(stream)
        elif len(ours) < len(others):
            counts["seen by h11 alone"] += 1
        elif we_refused or they_refused:
            counts["refused by both" if we_refused and they_refused else "refused by one, after the same requests"] += 1
        else:
            counts["read alike"] += 1
    return counts, faults


@click.command()
@click.option("--inputs", "count", default=100_000, show_default=True)
@click.option("--seed", default=1, show_default=True)
def main(count: int, seed: int) -> None:
    """Compare the proxy's parser with h11."""
    counts, faults = compare(count, seed)
    for name, number in counts.most_common():
        click.echo(f"{number:8}  {name}")
    for stream in faults[:20]:
        click.echo(repr(stream))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
