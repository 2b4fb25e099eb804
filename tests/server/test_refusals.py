"""Every way in which a request can be wrong: the right status, the right name, JSON, and the worker goes on.

R-ERR-*, R-URI-*, R-AUTH-*, Q-1 to Q-5, Q-12, and the order of checks in the design.
"""

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from server_support import (
    HEALTH,
    HEALTH_BODY,
    Caller,
    Reply,
    Wire,
    assert_error,
    assert_json,
    assert_serving,
    encoded,
    key_path,
    request,
    signed,
    signed_post,
    written_log,
)
from support import Proxy

from xksproxy.sigv4.keyring import Credential, generate_credential

API_PATHS = [HEALTH, key_path("metadata"), key_path("encrypt"), key_path("decrypt")]


@pytest.fixture(autouse=True, scope="module")
def nothing_unforeseen(proxy: Proxy) -> Iterator[None]:
    """Whatever the tests did, nothing failed in the proxy unforeseen, as its log tells when all of it is written."""
    before = len(written_log(proxy))
    yield
    assert_foreseen(written_log(proxy)[before:])


@pytest.fixture(autouse=True)
def serving_afterwards(proxy: Proxy, nothing_unforeseen: None) -> Iterator[None]:
    """Whatever a test did, the proxy serves when it is over. The log may tell more of it later: see above."""
    before = proxy.log.stat().st_size
    yield
    assert_serving(proxy)
    with proxy.log.open("rb") as log:
        log.seek(before)
        assert_foreseen(log.read().decode(errors="replace"))


def assert_foreseen(log: str) -> None:
    for word in ("Traceback", "Logging error", "InternalException"):
        assert word not in log


def with_body(proxy: Proxy, path: str, message: object) -> bytes:
    return signed_post(proxy, path, json.dumps(message).encode())


def chunked(data: bytes, size: int = 50) -> bytes:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def chunked_head(proxy: Proxy, body: bytes = HEALTH_BODY) -> bytes:
    """The head of a signed POST whose body is to follow in chunks."""
    return signed_post(proxy, HEALTH, body, Content_Length=None, Transfer_Encoding="chunked")[: -len(body)]


# --- Method and path


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
@pytest.mark.parametrize("path", API_PATHS)
def test_another_method_on_an_api_path_is_405(proxy: Proxy, wire: Wire, method: str, path: str) -> None:
    """R-URI-5; without credentials, for a load balancer's GET has none."""
    reply = wire.ask(request(method, path, {"Host": proxy.host}), method)

    assert reply.header("allow") == "POST"
    if method == "HEAD":
        assert (reply.status, reply.content) == (405, b"")
        assert_json(reply)
    else:
        assert_error(reply, 405, "UnsupportedOperationException")


@pytest.mark.parametrize("method", ["BREW", "post", "POSTS", "POST\x00", "P0ST", "G E T", ""])
def test_an_unknown_method_is_refused(proxy: Proxy, wire: Wire, method: str) -> None:
    reply = wire.ask(request(method, HEALTH, {"Host": proxy.host}))

    assert reply.status in (400, 405)
    assert_error(reply, reply.status, reply.body["errorName"])


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/dev",
        "/dev/",
        "/dev/kms/xks/v1",
        "/dev/kms/xks/v1/",
        "/dev/kms/xks/v2/health",
        "/DEV/kms/xks/v1/health",
        "/dev/KMS/xks/v1/health",
        "/dev/kms/xks/v1/Health",
        "/dev/kms/xks/v1/health/",
        "/dev/kms/xks/v1/healthy",
        "/dev/kms/xks/v1/keys",
        "/dev/kms/xks/v1/keys/demo-key",
        "/dev/kms/xks/v1/keys/demo-key/",
        "/dev/kms/xks/v1/keys/demo-key/delete",
        "/dev/kms/xks/v1/keys/demo-key/encrypt/",
        "/dev/kms/xks/v1/keys/demo-key/x/encrypt",
        "/dev/kms/xks/v1/keys//encrypt",
        "/dev/invalid/kms/xks/v1/health",
        "/nobody/kms/xks/v1/health",
        "/dev/dev/kms/xks/v1/health",
        "//kms/xks/v1/health",
        "//dev/kms/xks/v1/health",
        "/dev//kms/xks/v1/health",
        "/dev/kms//xks/v1/health",
        "/dev/kms/xks/v1/health?",
        "/dev/kms/xks/v1/health?a=b",
        "/dev/kms/xks/v1/health#a",
        "/dev/kms/xks/v1/health;a",
        "/dev/kms/xks/v1/keys/demo-key/encrypt?x",
        "/dev/kms/xks/v1/heal%74h",
        "/%64ev/kms/xks/v1/health",
        "/dev%2fkms/xks/v1/health",
        "/dev/kms/xks/v1/keys/demo%2Dkey/encrypt",
        "/dev/kms/xks/v1/keys/%64emo-key/encrypt",
        "/dev/kms/xks/v1/keys/demo-key%00/encrypt",
        "/dev/kms/xks/v1/keys/%2e%2e/encrypt",
        "/dev/kms/xks/v1/keys/./encrypt",
        "/dev/kms/xks/v1/keys/../encrypt",
        "/dev/./kms/xks/v1/health",
        "/x/../dev/kms/xks/v1/health",
        "/dev/kms/xks/v1/keys/../health",
        "/dev/kms/xks/v1/keys/x/../demo-key/encrypt",
        "/dev/kms/xks/v1/health/../health",
        "/ping",
        "/ping/",
        "/livez",
        "/metrics",
        "https://localhost/dev/kms/xks/v1/health",
        "http://other.example/dev/kms/xks/v1/health",
    ],
)
def test_any_other_path_is_invalid_even_when_it_is_signed(proxy: Proxy, wire: Wire, path: str) -> None:
    """R-URI-11; nothing is decoded and nothing normalised."""
    reply = wire.ask(signed_post(proxy, path))

    assert_error(reply, 404, "InvalidUriPathException")


@pytest.mark.parametrize("path", ["*", "dev/kms/xks/v1/health", "/dev/kms/xks/v1/ health", "/\udcff", "", "/dev\x00"])
def test_a_request_target_that_is_none_is_refused(proxy: Proxy, wire: Wire, path: str) -> None:
    reply = wire.ask(request("POST", path, {"Host": proxy.host, "Content-Length": "0"}))

    assert reply.status in (400, 404)
    assert_error(reply, reply.status, reply.body["errorName"])


@pytest.mark.parametrize(
    "key_id",
    [
        "x" * 129,
        "x" * 2000,
        "a+b",
        "a b".replace(" ", "~"),
        "a:b",
        "a@b",
        "a,b",
        "a*",
        "test-*",
        "te?t".replace("?", "!"),
    ],
)
def test_a_key_id_that_cannot_exist_is_not_found(proxy: Proxy, wire: Wire, caller: Caller, key_id: str) -> None:
    """Q-12."""
    reply = wire.ask(with_body(proxy, key_path("encrypt", key_id), caller.encryption(b"x")))

    assert_error(reply, 404, "KeyNotFoundException")


@pytest.mark.parametrize("operation", ["metadata", "encrypt", "decrypt"])
def test_without_credentials_no_key_differs_from_another(proxy: Proxy, wire: Wire, operation: str) -> None:
    """An existing key, a disabled one, a hidden one, a missing one and an impossible one: nothing tells which."""
    ids = ["demo-key", "disabled-key", "impotent-key", "no-such-key", "test-x", "x" * 129, "a@b"]

    replies = [
        wire.ask(request("POST", key_path(operation, key_id), {"Host": proxy.host, "Content-Length": "2"}, b"{}"))
        for key_id in ids
    ]

    for reply in replies:
        assert_error(reply, 401, "AuthenticationFailedException")
    assert len({(reply.content, names_and_values(reply)) for reply in replies}) == 1


# --- Protocol


@pytest.mark.parametrize(
    "version", ["", "HTTP/0.9", "HTTP/1.0", "HTTP/1", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0", "HTTPS/1.1", "http/1.1"]
)
def test_another_version_of_http_is_refused_in_a_version_that_is_served(proxy: Proxy, wire: Wire, version: str) -> None:
    """R-TLS-3."""
    reply = wire.ask(request("POST", HEALTH, signed(proxy, HEALTH, HEALTH_BODY), HEALTH_BODY, version))

    assert_error(reply, 400, "ValidationException")
    assert reply.version in ("HTTP/1.0", "HTTP/1.1")


@pytest.mark.parametrize(
    "data",
    [
        b"POST\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b" POST / HTTP/1.1\r\n\r\n",
        b"POST  / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\n: nameless\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: b\x00c\r\n\r\n",
        b"POST / HTTP/1.1\r\nA\x00: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        b"POST / HTTP/1.1\nHost: x\n\n",
        b"\x00" * 64 + b"\r\n\r\n",
        b"\xff" * 64 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"{}\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_connection_closed(wire: Wire, data: bytes) -> None:
    reply = wire.send_what_is_taken(data).reply()

    assert_error(reply, 400, "ValidationException")
    wire.wait_until_closed()


def test_random_bytes_never_get_an_answer_without_json(proxy: Proxy) -> None:
    for _ in range(40):
        with Wire(proxy) as wire:
            reply = wire.send_what_is_taken(os.urandom(200) + b"\r\n\r\n").reply()
            assert_error(reply, 400, "ValidationException")


def test_a_good_request_with_one_byte_changed_never_gets_an_answer_without_json(proxy: Proxy) -> None:
    """Each position of the head in turn: refused, or served where the byte does not matter."""
    good = signed_post(proxy)
    for position in range(good.index(b"\r\n\r\n")):
        changed = bytearray(good)
        changed[position] ^= 1 << (position % 7)
        with Wire(proxy) as wire:
            reply = wire.ask(bytes(changed))
        assert_json(reply)
        assert reply.status in (200, 400, 401, 404, 405, 501), (position, reply)
        assert reply.status == 200 or reply.body.keys() == {"errorName", "errorMessage"}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Long": "a" * 17_000},
        {"X-Long": "a" * 200_000},
        {"X" * 17_000: "a"},
        {f"X-{index}": "a" for index in range(65)},
        {f"X-{index}": "a" * 8000 for index in range(200)},
    ],
)
def test_headers_too_long_or_too_many_are_refused(proxy: Proxy, wire: Wire, headers: dict[str, str]) -> None:
    head = request("POST", HEALTH, {**signed(proxy, HEALTH, HEALTH_BODY), **headers}, HEALTH_BODY)

    assert_error(wire.send_what_is_taken(head).reply(), 400, "ValidationException")


def test_a_request_line_too_long_is_refused(proxy: Proxy, wire: Wire) -> None:
    data = request("POST", "/" + "a" * 100_000, {"Host": proxy.host})

    assert_error(wire.send_what_is_taken(data).reply(), 400, "ValidationException")


def test_pipelined_requests_are_answered_in_order(proxy: Proxy, wire: Wire, caller: Caller) -> None:
    plaintexts = [b"%d" % number for number in range(30)]
    seals = [caller.seal("demo-key", plaintext) for plaintext in plaintexts]

    wire.send(b"".join(with_body(proxy, key_path("decrypt"), caller.decryption(sealed)) for sealed in seals))

    assert [wire.reply().body["plaintext"] for _ in seals] == [encoded(plaintext) for plaintext in plaintexts]


def test_pipelined_requests_each_get_their_own_verdict(proxy: Proxy, wire: Wire) -> None:
    wire.send(
        signed_post(proxy)
        + signed_post(proxy, Authorization=None)
        + request("GET", "/ping", {"Host": "x"})
        + request("GET", HEALTH, {"Host": "x"})
        + signed_post(proxy, "/nobody")
        + signed_post(proxy)
    )

    assert [wire.reply().status for _ in range(6)] == [200, 401, 200, 405, 404, 200]


def test_garbage_after_good_requests_gets_an_error_and_ends_the_connection(proxy: Proxy, wire: Wire) -> None:
    assert wire.ask(signed_post(proxy)).status == 200
    assert wire.ask(signed_post(proxy)).status == 200

    assert_error(wire.ask(b"nonsense\r\n\r\n"), 400, "ValidationException")
    assert wire.wait_until_closed() == b""


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.3"])
def test_an_upgrade_is_refused(proxy: Proxy, wire: Wire, protocol: str) -> None:
    """R-TLS-3: HTTP/1.1 is all that is spoken here, and a client that wants another protocol is told."""
    assert_error(wire.ask(signed_post(proxy, Upgrade=protocol, Connection="Upgrade")), 400, "ValidationException")
    assert wire.wait_until_closed() == b""


def test_connect_is_refused_and_opens_nothing(proxy: Proxy, wire: Wire) -> None:
    reply = wire.ask(request("CONNECT", "localhost:443", {"Host": "localhost:443"}))

    assert reply.status in (400, 404, 405)
    assert_error(reply, reply.status, reply.body["errorName"])


# --- Body


@pytest.mark.parametrize("size", [1, 7, 50, 65536])
def test_a_chunked_body_is_read_like_another(proxy: Proxy, wire: Wire, size: int) -> None:
    wire.send(chunked_head(proxy) + chunked(HEALTH_BODY, size))

    assert wire.reply().status == 200
    assert wire.ask(signed_post(proxy)).status == 200


def test_chunk_extensions_and_trailers_do_not_matter(proxy: Proxy, wire: Wire) -> None:
    body = b"%x;name=value\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(HEALTH_BODY), HEALTH_BODY)

    assert wire.ask(chunked_head(proxy) + body).status == 200
    assert wire.ask(signed_post(proxy)).status == 200


def test_a_body_in_many_packets_is_read_whole(proxy: Proxy, wire: Wire) -> None:
    data = signed_post(proxy)
    for start in range(0, len(data), 37):
        wire.send(data[start : start + 37])

    assert wire.reply().status == 200


@pytest.mark.parametrize("padding", [65535, 65536])
def test_a_body_of_up_to_64_kib_is_read(proxy: Proxy, wire: Wire, padding: int) -> None:
    body = HEALTH_BODY.ljust(padding)

    assert wire.ask(signed_post(proxy, HEALTH, body)).status == 200
    assert wire.ask(chunked_head(proxy, body) + chunked(body, 5000)).status == 200


@pytest.mark.parametrize("size", [65537, 70_000, 1_000_000])
def test_a_body_above_64_kib_is_unsupported(proxy: Proxy, wire: Wire, size: int) -> None:
    reply = wire.send_what_is_taken(signed_post(proxy, HEALTH, HEALTH_BODY.ljust(size))).reply()

    assert_error(reply, 501, "UnsupportedOperationException")


@pytest.mark.parametrize("size", [65537, 1_000_000])
@pytest.mark.parametrize("chunk", [1000, 65536, 1_000_000])
def test_a_chunked_body_above_64_kib_is_unsupported(proxy: Proxy, wire: Wire, size: int, chunk: int) -> None:
    body = HEALTH_BODY.ljust(size)

    reply = wire.send_what_is_taken(chunked_head(proxy, body) + chunked(body, chunk)).reply()

    assert_error(reply, 501, "UnsupportedOperationException")


def test_a_body_announced_as_enormous_is_refused_at_once(proxy: Proxy, wire: Wire) -> None:
    head = request("POST", HEALTH, {"Host": proxy.host, "Content-Length": str(10**15)})

    assert_error(wire.ask(head), 501, "UnsupportedOperationException")
    wire.wait_until_closed()


@pytest.mark.parametrize("length", ["-1", "+107", "107, 107", "0x6b", "1_0", "", "ten", "107.0", "9" * 40])
def test_a_content_length_that_is_none_is_refused(proxy: Proxy, wire: Wire, length: str) -> None:
    reply = wire.ask(signed_post(proxy, Content_Length=length))

    assert reply.status in (400, 501)
    assert_error(reply, reply.status, reply.body["errorName"])


def test_two_content_lengths_are_refused(proxy: Proxy, wire: Wire) -> None:
    headers = [*signed(proxy, HEALTH, HEALTH_BODY).items(), ("Content-Length", "1")]

    assert_error(wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)), 400, "ValidationException")


def test_content_length_with_transfer_encoding_is_refused(proxy: Proxy, wire: Wire) -> None:
    reply = wire.ask(signed_post(proxy, Transfer_Encoding="chunked"))

    assert_error(reply, 400, "ValidationException")
    wire.wait_until_closed()


@pytest.mark.parametrize("encoding", ["gzip", "identity", "chunked, gzip", "chunked, chunked", "xchunked", ""])
def test_another_transfer_encoding_is_refused(proxy: Proxy, wire: Wire, encoding: str) -> None:
    head = signed_post(proxy, Content_Length=None, Transfer_Encoding=encoding)[: -len(HEALTH_BODY)]

    reply = wire.send_what_is_taken(head + chunked(HEALTH_BODY)).reply()

    assert reply.status in (400, 401)
    assert_error(reply, reply.status, reply.body["errorName"])


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\nabc\r\n0\r\n\r\n",
        b"-5\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcdef\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\r\nnonsense\r\n\r\n",
    ],
)
def test_an_invalid_chunk_is_refused(proxy: Proxy, wire: Wire, body: bytes) -> None:
    assert_error(wire.send_what_is_taken(chunked_head(proxy) + body).reply(), 400, "ValidationException")
    wire.wait_until_closed()


def test_an_invalid_chunk_after_the_body_has_begun_is_refused(proxy: Proxy, wire: Wire) -> None:
    wire.send(chunked_head(proxy) + chunked(HEALTH_BODY)[:40])
    reply = wire.send_what_is_taken(b"!" * 100 + b"\r\n\r\n").reply()

    assert_error(reply, 400, "ValidationException")


def test_expect_100_continue_is_answered_before_the_body(proxy: Proxy, wire: Wire) -> None:
    data = signed_post(proxy, Expect="100-continue")

    assert wire.ask(data[: -len(HEALTH_BODY)]).status == 100
    assert wire.ask(HEALTH_BODY).status == 200
    assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize(
    ("path", "size", "status"), [(HEALTH, 65537, 501), ("/nobody/kms/xks/v1/health", 10, 404), ("/", 10, 404)]
)
def test_what_is_refused_by_its_head_is_not_told_to_continue(
    proxy: Proxy, wire: Wire, path: str, size: int, status: int
) -> None:
    headers = {"Host": proxy.host, "Content-Length": str(size), "Expect": "100-continue"}

    assert wire.ask(request("POST", path, headers)).status == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"}",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{}{}",
        b"{'requestMetadata':{}}",
        b'{"requestMetadata":}',
        HEALTH_BODY[:-1],
        HEALTH_BODY + b"x",
        HEALTH_BODY + HEALTH_BODY,
        b"\xef\xbb\xbf" + HEALTH_BODY,
        HEALTH_BODY.replace(b"4112", b"\xff\xfe"),
        HEALTH_BODY.replace(b"4112", b"\\ud800"),
        HEALTH_BODY.replace(b"4112", b"\x00"),
        HEALTH_BODY.replace(b"4112", b"\\x"),
        HEALTH_BODY.decode().encode("utf-16"),
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"requestMetadata":' + b"[" * 50_000 + b"]" * 10_000,
        b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"," + HEALTH_BODY[1:],
        b"\x00" * 1000,
        gzip.compress(HEALTH_BODY),
        b"<xml/>",
        b"a=b&c=d",
    ],
)
def test_a_body_that_is_not_the_json_asked_for_is_a_validation_error(proxy: Proxy, wire: Wire, body: bytes) -> None:
    assert_error(wire.ask(signed_post(proxy, HEALTH, body)), 400, "ValidationException")


def test_a_compressed_body_is_never_decompressed(proxy: Proxy, wire: Wire) -> None:
    body = gzip.compress(HEALTH_BODY)

    for encoding in ("gzip", "deflate", "br", "zstd", "identity", "nonsense"):
        reply = wire.ask(signed_post(proxy, HEALTH, body, Content_Encoding=encoding))
        assert_error(reply, 400, "ValidationException")


def test_a_compression_bomb_does_no_harm(proxy: Proxy, wire: Wire) -> None:
    body = gzip.compress(bytes(40_000_000))[:65536]

    assert_error(wire.ask(signed_post(proxy, HEALTH, body, Content_Encoding="gzip")), 400, "ValidationException")


def test_the_message_never_quotes_a_value(proxy: Proxy, wire: Wire, caller: Caller) -> None:
    secret = "c2VjcmV0LXBsYWludGV4dA"
    message = caller.encryption(b"x")

    for change in ({"plaintext": secret}, {"plaintext": [secret]}, {"encryptionAlgorithm": secret}, {secret: 1}):
        reply = wire.ask(with_body(proxy, key_path("encrypt"), {**message, "plaintext": 7, **change}))
        assert_error(reply, 400, "ValidationException")
        assert secret not in reply.content.decode()


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "text/json",
        "application/jsonp",
        "application/x-www-form-urlencoded",
        "application/json, application/json",
        "json",
        "; charset=utf-8",
    ],
)
def test_another_content_type_or_none_is_a_validation_error(proxy: Proxy, wire: Wire, content_type: str | None) -> None:
    """R-REQ-1."""
    assert_error(wire.ask(signed_post(proxy, Content_Type=content_type)), 400, "ValidationException")


def test_two_content_types_are_refused(proxy: Proxy, wire: Wire) -> None:
    headers = [*signed(proxy, HEALTH, HEALTH_BODY).items(), ("Content-Type", "application/json")]

    assert_error(wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)), 400, "ValidationException")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;"]
)
def test_a_content_type_of_json_may_have_parameters_and_any_case(proxy: Proxy, wire: Wire, content_type: str) -> None:
    assert wire.ask(signed_post(proxy, Content_Type=content_type)).status == 200


# --- SigV4


def tampered(proxy: Proxy, pattern: str, replacement: str) -> bytes:
    """A signed POST with a part of its Authorization header replaced."""
    authorization = signed(proxy, HEALTH, HEALTH_BODY)["Authorization"]
    changed = re.sub(pattern, replacement, authorization, count=1)
    assert changed != authorization
    return signed_post(proxy, Authorization=changed)


def signed_by(proxy: Proxy, credential: Credential, late_by: float = 0.0) -> bytes:
    headers = signed(proxy, HEALTH, HEALTH_BODY, credential=credential, late_by=late_by)
    return request("POST", HEALTH, headers, HEALTH_BODY)


def signed_twice(proxy: Proxy, name: str, value: str | None = None) -> bytes:
    headers = signed(proxy, HEALTH, HEALTH_BODY)
    return request("POST", HEALTH, [*headers.items(), (name, value or headers[name])], HEALTH_BODY)


UNAUTHENTIC: dict[str, Callable[[Proxy], bytes]] = {
    "no authorization": lambda proxy: signed_post(proxy, Authorization=None),
    "an empty authorization": lambda proxy: signed_post(proxy, Authorization=""),
    "basic authorization": lambda proxy: signed_post(proxy, Authorization="Basic eDp5"),
    "an unknown id": lambda proxy: signed_by(proxy, generate_credential()),
    "a known id with an invalid prefix": lambda proxy: tampered(proxy, "Credential=", "Credential=Invalid"),
    "an id in lower case": lambda proxy: tampered(
        proxy, proxy.credential.access_key_id, proxy.credential.access_key_id.lower()
    ),
    "a wrong secret": lambda proxy: signed_by(
        proxy, Credential(proxy.credential.access_key_id, generate_credential().secret_access_key)
    ),
    "the other credential's secret": lambda proxy: signed_by(
        proxy, Credential(proxy.credential.access_key_id, proxy.second_credential.secret_access_key)
    ),
    "another key store's credential": lambda proxy: signed_by(proxy, proxy.other_credential),
    "a stale time": lambda proxy: signed_by(proxy, proxy.credential, late_by=310),
    "a time of yesterday": lambda proxy: signed_by(proxy, proxy.credential, late_by=86400),
    "a time in the future": lambda proxy: signed_by(proxy, proxy.credential, late_by=-310),
    "no time": lambda proxy: signed_post(proxy, X_Amz_Date=None),
    "a time that is none": lambda proxy: signed_post(proxy, X_Amz_Date="99999999T999999Z"),
    "a time in another form": lambda proxy: signed_post(proxy, X_Amz_Date="2026-01-01T00:00:00Z"),
    "another day in the scope": lambda proxy: tampered(proxy, r"/[0-9]{8}/", "/20200101/"),
    "another region in the scope": lambda proxy: tampered(proxy, "/eu-west-1/", "/us-east-1/"),
    "another service in the scope": lambda proxy: tampered(proxy, "/kms-xks-proxy/", "/kms/"),
    "another terminator": lambda proxy: tampered(proxy, "aws4_request", "aws5_request"),
    "another algorithm": lambda proxy: tampered(proxy, "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
    "host not signed": lambda proxy: tampered(proxy, "host;", ""),
    "the time not signed": lambda proxy: tampered(proxy, ";x-amz-date", ""),
    "a signed header that is missing": lambda proxy: tampered(proxy, "host;", "host;x-absent;"),
    "another order of signed headers": lambda proxy: tampered(proxy, "host;x-amz-date", "x-amz-date;host"),
    "no signed headers": lambda proxy: tampered(proxy, "SignedHeaders=[^,]*", "SignedHeaders="),
    "another signature": lambda proxy: tampered(proxy, "Signature=.*", "Signature=" + "0" * 64),
    "an empty signature": lambda proxy: tampered(proxy, "Signature=.*", "Signature="),
    "a signature in upper case": lambda proxy: tampered(proxy, "Signature=.*", "Signature=" + "A" * 64),
    "two signatures": lambda proxy: tampered(proxy, "(Signature=.*)", r"\1, \1"),
    "another host": lambda proxy: signed_post(proxy, Host="other.example"),
    "another body": lambda proxy: signed_post(proxy)[:-1] + b" ",
    "another hash of the body": lambda proxy: signed_post(proxy, X_Amz_Content_SHA256="0" * 64),
    "an unsigned body": lambda proxy: signed_post(proxy, X_Amz_Content_SHA256="UNSIGNED-PAYLOAD"),
    "another path": lambda proxy: request("POST", HEALTH, signed(proxy, key_path("encrypt"), HEALTH_BODY), HEALTH_BODY),
    "bytes beyond ASCII": lambda proxy: signed_post(proxy, Authorization="AWS4-HMAC-SHA256 é\udcff"),
}


def names_and_values(reply: Reply) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in reply.headers if name != "date")


@pytest.mark.parametrize("case", UNAUTHENTIC)
def test_an_unauthentic_request_is_refused_the_same_way_whatever_the_cause(proxy: Proxy, wire: Wire, case: str) -> None:
    """R-AUTH-13: one answer, to the byte."""
    expected = wire.ask(signed_by(proxy, generate_credential()))

    reply = wire.ask(UNAUTHENTIC[case](proxy))

    assert_error(reply, 401, "AuthenticationFailedException")
    assert reply.content == expected.content
    assert names_and_values(reply) == names_and_values(expected)


@pytest.mark.parametrize("name", ["Authorization", "X-Amz-Date", "Host"])
def test_a_header_that_decides_must_not_come_twice(proxy: Proxy, wire: Wire, name: str) -> None:
    for value in (None, "x"):
        with Wire(proxy) as again:
            reply = again.ask(signed_twice(proxy, name, value))
        assert reply.status in (400, 401)
        assert_error(reply, reply.status, reply.body["errorName"])


def test_a_request_without_host_is_refused(proxy: Proxy, wire: Wire) -> None:
    reply = wire.ask(signed_post(proxy, Host=None))

    assert reply.status in (400, 401)
    assert_error(reply, reply.status, reply.body["errorName"])


@pytest.mark.parametrize("late_by", [-290, -5, 5, 290])
def test_a_clock_that_differs_by_less_than_five_minutes_is_accepted(proxy: Proxy, wire: Wire, late_by: float) -> None:
    """R-AUTH-10."""
    assert wire.ask(signed_by(proxy, proxy.credential, late_by)).status == 200


def test_the_second_credential_works_beside_the_first(proxy: Proxy, wire: Wire) -> None:
    """R-AUTH-11."""
    for credential in (proxy.credential, proxy.second_credential) * 3:
        assert wire.ask(signed_by(proxy, credential)).status == 200


def test_health_needs_authentication_too(proxy: Proxy, wire: Wire) -> None:
    """R-AUTH-1, R-HLTH-4."""
    headers = {"Host": proxy.host, "Content-Type": "application/json", "Content-Length": str(len(HEALTH_BODY))}

    assert_error(wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)), 401, "AuthenticationFailedException")


# --- The order of checks


def order_cases(proxy: Proxy, caller: Caller) -> dict[str, tuple[bytes, int, str]]:
    """Two faults each; the earlier one is answered."""
    encrypt, hidden = key_path("encrypt"), key_path("encrypt", "no-such-key")
    good = caller.encryption(b"x")
    sealed: dict[str, Any] = {
        "requestMetadata": caller.metadata,
        "encryptionAlgorithm": "AES_GCM",
        "ciphertext": encoded(b"x"),
        "initializationVector": encoded(bytes(12)),
        "authenticationTag": encoded(bytes(16)),
    }
    large = {"plaintext": encoded(bytes(8193))}
    host = {"Host": proxy.host}
    return {
        "path before method": (request("GET", "/nobody/kms/xks/v1/health", host), 404, "InvalidUriPathException"),
        "path before signature": (
            request("POST", "/nobody/kms/xks/v1/health", host),
            404,
            "InvalidUriPathException",
        ),
        "method before signature": (request("GET", HEALTH, host), 405, "UnsupportedOperationException"),
        "method before size": (
            request("PUT", HEALTH, {**host, "Content-Length": "70000"}),
            405,
            "UnsupportedOperationException",
        ),
        "size before signature": (
            request("POST", HEALTH, {**host, "Content-Length": "70000"}),
            501,
            "UnsupportedOperationException",
        ),
        "signature before content type": (
            signed_post(proxy, Authorization=None, Content_Type="text/plain"),
            401,
            "AuthenticationFailedException",
        ),
        "signature before JSON": (
            request("POST", encrypt, {**host, "Content-Length": "1"}, b"{"),
            401,
            "AuthenticationFailedException",
        ),
        "signature before key": (
            request("POST", hidden, {**host, "Content-Length": "2"}, b"{}"),
            401,
            "AuthenticationFailedException",
        ),
        "JSON before key": (signed_post(proxy, hidden, b"{"), 400, "ValidationException"),
        "fields before key": (with_body(proxy, hidden, {}), 400, "ValidationException"),
        "Base64 before key": (with_body(proxy, hidden, good | {"plaintext": "*"}), 400, "ValidationException"),
        "algorithm before key": (
            with_body(proxy, hidden, good | {"encryptionAlgorithm": "x"}),
            400,
            "ValidationException",
        ),
        "fields before size": (
            with_body(proxy, encrypt, good | large | {"requestMetadata": {}}),
            400,
            "ValidationException",
        ),
        "plaintext size before key": (with_body(proxy, hidden, good | large), 501, "UnsupportedOperationException"),
        "lengths before key": (
            with_body(proxy, key_path("decrypt", "no-such-key"), sealed | {"authenticationTag": ""}),
            400,
            "InvalidCiphertextException",
        ),
        "size before state": (
            with_body(proxy, key_path("encrypt", "disabled-key"), good | large),
            501,
            "UnsupportedOperationException",
        ),
        "key before cryptography": (
            with_body(proxy, key_path("decrypt", "no-such-key"), sealed),
            404,
            "KeyNotFoundException",
        ),
        "state before cryptography": (
            with_body(proxy, key_path("decrypt", "disabled-key"), sealed),
            400,
            "InvalidStateException",
        ),
        "usage before cryptography": (
            with_body(proxy, key_path("decrypt", "encrypt-only-key"), sealed),
            400,
            "InvalidKeyUsageException",
        ),
        "cryptography last": (with_body(proxy, key_path("decrypt"), sealed), 400, "InvalidCiphertextException"),
    }


def test_of_two_faults_the_earlier_check_is_answered(proxy: Proxy, caller: Caller) -> None:
    for name, (data, status, error) in order_cases(proxy, caller).items():
        with Wire(proxy) as wire:
            reply = wire.ask(data)
        assert (name, reply.status, reply.body["errorName"]) == (name, status, error)
        assert_error(reply, status, error)


# --- /ping


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("target", ["/ping", "/ping?", "/ping?x=y"])
def test_ping_answers_without_credentials_and_discloses_nothing(
    proxy: Proxy, wire: Wire, method: str, target: str
) -> None:
    reply = wire.ask(request(method, target, {"Host": "anything"}), method)

    assert (reply.status, reply.content) == (200, b"" if method == "HEAD" else b"{}")
    assert_json(reply)
    assert {name for name, _ in reply.headers} <= {"content-type", "content-length", "date", "server"}


def test_ping_may_have_a_body_and_keeps_the_connection(proxy: Proxy, wire: Wire) -> None:
    ping = request("GET", "/ping", {"Host": "anything", "Content-Length": "3"}, b"abc")

    for _ in range(3):
        assert wire.ask(ping).status == 200
    assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize(
    "target", ["/ping/", "/ping/..", "/pingx", "//ping", "/?/ping", "/PING", "/dev/ping", "/%70ing"]
)
def test_nothing_else_is_ping(proxy: Proxy, wire: Wire, target: str) -> None:
    reply = wire.ask(request("GET", target, {"Host": "anything"}))

    assert_error(reply, 404, "InvalidUriPathException")
