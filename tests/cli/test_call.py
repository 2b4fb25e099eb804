"""`xksproxy call` against a running proxy, and against servers that are not a proxy."""

import json
import re
import shlex
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Proxy, eventually, free_port, lines_with
from xksproxy_tools.development import certificates
from xksproxy_tools.development.environment import DevEnvironment

Run = Callable[..., Any]


@pytest.fixture
def sourced(environment: DevEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of client.env, as a shell would export them."""
    for line in environment.client_env.read_text().splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        monkeypatch.setenv(name, value)


@pytest.fixture
def call(proxy: Proxy, sourced: None, run: Run) -> Run:
    """`xksproxy call`, for the running proxy."""

    def run_call(*arguments: str | Path, stdin: bytes = b"") -> Any:
        done = run("call", *arguments, stdin=stdin)
        assert proxy.credential.secret_access_key.encode() not in done.out + done.err.encode()
        return done

    return run_call


def _answer(done: Any) -> dict[str, Any]:
    answer = json.loads(done.text)
    assert isinstance(answer, dict)
    return answer


@pytest.mark.slow
def test_health_prints_the_answer_and_on_standard_error_its_status_and_time(call: Run) -> None:
    done = call("health")

    assert done.code == 0
    assert re.fullmatch(r"200 in \d+\.\d ms\n", done.err)
    assert done.text.count("\n") == 1
    # A check of SoftHSM2 fails while another process logs in to its token, as tests before this one may have done.
    eventually(lambda: _answer(call("health"))["ekmFleetDetails"][0]["healthStatus"], "ACTIVE")


@pytest.mark.slow
def test_metadata_tells_of_the_key_that_was_named(call: Run) -> None:
    usages = {
        key: _answer(call("metadata", "--key", key))["keyUsage"]
        for key in ("demo-key", "encrypt-only-key", "decrypt-only-key", "impotent-key")
    }

    assert usages == {
        "demo-key": ["ENCRYPT", "DECRYPT"],
        "encrypt-only-key": ["ENCRYPT"],
        "decrypt-only-key": ["DECRYPT"],
        "impotent-key": [],
    }
    assert _answer(call("metadata"))["keyUsage"] == ["ENCRYPT", "DECRYPT"]


@pytest.mark.slow
def test_the_answer_of_encrypt_can_be_piped_into_decrypt(call: Run) -> None:
    sealed = call("encrypt", "--plaintext", "Grüße")

    opened = call("decrypt", stdin=sealed.out)

    assert (sealed.code, opened.code) == (0, 0)
    assert "ciphertextDataIntegrityValue" not in _answer(sealed)
    assert _answer(opened) == {"plaintext": "R3LDvMOfZQ=="}


@pytest.mark.slow
def test_the_answer_of_encrypt_can_be_kept_in_a_file(call: Run, tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_bytes(call("encrypt", "--plaintext", "text").out)

    opened = call("decrypt", "--input", tmp_path / "answer.json", "--raw")

    assert (opened.code, opened.out) == (0, b"text")


@pytest.mark.slow
def test_additional_data_must_be_the_same_for_both(call: Run) -> None:
    sealed = call("encrypt", "--plaintext", "text", "--aad", "größe=1")

    same = call("decrypt", "--aad", "größe=1", "--raw", stdin=sealed.out)
    another = call("decrypt", "--aad", "größe=2", "--raw", stdin=sealed.out)
    none = call("decrypt", "--raw", stdin=sealed.out)

    assert (same.code, same.out) == (0, b"text")
    for done in (another, none):
        assert done.code == 1
        assert done.err.startswith("400 in ")
        assert _answer(done)["errorName"] == "InvalidCiphertextException"


@pytest.mark.slow
def test_cdiv_asks_for_a_ciphertext_data_integrity_value(call: Run) -> None:
    sealed = call("encrypt", "--plaintext", "text", "--aad", "a", "--cdiv")

    assert _answer(sealed)["ciphertextDataIntegrityValue"]
    assert call("decrypt", "--aad", "a", "--raw", stdin=sealed.out).out == b"text"


@pytest.mark.slow
@settings(max_examples=20)
@given(st.binary(max_size=4096), st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_what_is_encrypted_is_what_is_decrypted(call: Run, plaintext: bytes, aad: str | None) -> None:
    options = () if aad is None else (f"--aad={aad}",)

    opened = call("decrypt", "--raw", *options, stdin=call("encrypt", *options, stdin=plaintext).out)

    assert (opened.code, opened.out) == (0, plaintext)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("metadata", "--key", "none"), 404, "KeyNotFoundException"),
        (("encrypt", "--plaintext", "x", "--key", "disabled-key"), 400, "InvalidStateException"),
        (("encrypt", "--plaintext", "x", "--key", "decrypt-only-key"), 400, "InvalidKeyUsageException"),
        (("metadata", "--key", ""), 404, "InvalidUriPathException"),
        (("health", "--prefix", "none"), 404, "InvalidUriPathException"),
        (("health", "--prefix", ""), 401, "AuthenticationFailedException"),
        (("health", "--access-key-id", "UNKNOWN"), 401, "AuthenticationFailedException"),
        (("encrypt", "--plaintext", "x" * 70_000), 501, "UnsupportedOperationException"),
        (("decrypt", "--raw", "--key", "none"), 404, "KeyNotFoundException"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_an_error_of_the_proxy_is_printed_and_exits_with_1(
    call: Run, arguments: tuple[str, ...], status: int, error: str
) -> None:
    sealed = b'{"ciphertext": "AAAA", "initializationVector": "AAAAAAAAAAAAAAAA", "authenticationTag": "%s=="}' % (
        b"A" * 22
    )

    done = call(*arguments, stdin=sealed)

    assert done.code == 1
    assert done.err.startswith(f"{status} in ")
    assert _answer(done)["errorName"] == error


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["dev", "/dev", "/dev/"])
def test_the_prefix_may_be_written_with_or_without_slashes(call: Run, prefix: str) -> None:
    assert call("health", "--prefix", prefix).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("ca", ["{}", "--cacert {}"])
def test_the_ca_may_be_written_as_a_path_or_as_curl_wants_it(call: Run, proxy: Proxy, ca: str) -> None:
    assert call("health", "--ca", ca.format(proxy.environment.authority)).code == 0


@pytest.mark.slow
def test_the_region_and_the_kms_operation_are_those_that_were_named(call: Run, proxy: Proxy) -> None:
    done = call("metadata", "--region", "ap-southeast-7", "--operation", "DescribeKey4711")

    assert done.code == 0
    (line,) = eventually(lambda: lines_with(proxy.log, "DescribeKey4711"))
    assert 'region="ap-southeast-7"' in line
    assert "arn:aws:kms:ap-southeast-7:" in line


@pytest.mark.slow
def test_the_secret_can_come_from_a_file(
    call: Run, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIGV4_SECRET_ACCESS_KEY", "wrong")
    (tmp_path / "secret").write_text(f"{proxy.credential.secret_access_key}\n")

    assert call("health", "--secret-access-key-file", tmp_path / "secret").code == 0


@pytest.mark.slow
def test_a_server_that_another_ca_vouches_for_is_not_called(call: Run, proxy: Proxy, tmp_path: Path) -> None:
    authority = certificates.create_authority("xksproxy development CA")
    (tmp_path / "ca.pem").write_bytes(certificates.certificate_pem(authority.certificate))

    for done in (call("health", "--ca", tmp_path / "ca.pem"), call("health", "--ca", "")):
        assert (done.code, done.out) == (2, b"")
        assert done.err.startswith(f"xksproxy: https://{proxy.host}: ")
        assert "--ca FILE" in done.err


@pytest.mark.slow
def test_a_server_of_another_name_is_not_called(call: Run, proxy: Proxy) -> None:
    # R-TLS-4: the resolver reads 127.1 as 127.0.0.1, and the certificate does not contain it.
    done = call("health", "--host", f"127.1:{proxy.port}")

    assert (done.code, done.out) == (2, b"")
    assert "certificate is not valid for '127.1'" in done.err
    assert "--ca FILE" not in done.err  # no other CA would help


@pytest.mark.slow
def test_a_reader_that_has_gone_is_no_reason_for_a_traceback(
    call: Run, into_closed_pipe: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "answer.json").write_bytes(call("encrypt", "--plaintext", "text").out)

    for arguments in (("metadata",), ("decrypt", "--raw", "--input", tmp_path / "answer.json")):
        code, err = into_closed_pipe("call", *arguments)

        assert code == 1
        assert re.fullmatch(r"200 in \d+\.\d ms\n+", err)


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"not JSON",
        b"{",
        b"\xff\xfe",
        b"\0",
        b"1",
        b"null",
        b'"ciphertext"',
        b'["ciphertext"]',
        b"[" * 100_000,
        b'{"ciphertext": ' * 20_000,
    ],
    ids=lambda value: repr(value[:20]),
)
def test_garbage_on_the_input_of_decrypt_is_refused_before_anything_is_sent(
    run: Run, environment: DevEnvironment, sourced: None, stdin: bytes
) -> None:
    done = run("call", "decrypt", "--host", f"localhost:{free_port()}", stdin=stdin)

    assert (done.code, done.out) == (2, b"")
    assert done.err == "xksproxy: the input is not a JSON response of Encrypt\n"


@pytest.mark.slow
@pytest.mark.parametrize("stdin", [b"{}", b'{"ciphertext": 1}', b'{"ciphertext": NaN}', b'{"ciphertext": "\\ud800"}'])
def test_what_is_json_but_no_answer_of_encrypt_is_refused_by_the_proxy(call: Run, stdin: bytes) -> None:
    done = call("decrypt", stdin=stdin)

    assert done.code == 1
    assert _answer(done)["errorName"] == "ValidationException"


@pytest.mark.parametrize(
    "host",
    [
        "localhost:{port}",
        "localhost:none",
        "localhost:99999",
        "[::1",
        "a b",
        "a\nb",
        ".",
        "\udcff",
        "ä" * 70,
        "x" * 300,
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_an_address_where_no_proxy_is_cannot_be_called(run: Run, sourced: None, host: str) -> None:
    host = host.format(port=free_port())

    done = run("call", "health", "--host", host)

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("xksproxy: https://") or "expected a host or host:port" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("metadata", "--key", "a\nb"),
        ("metadata", "--key", "ключ"),
        ("metadata", "--key", "\udcff"),
        ("health", "--prefix", "a b"),
        ("health", "--prefix", "\udcff"),
        ("health", "--region", "a\nb"),
        ("health", "--region", "\udcff"),
        ("health", "--access-key-id", "a\nb"),
        ("health", "--access-key-id", "\udcff"),
    ],
    ids=ascii,
)
@pytest.mark.slow
def test_what_cannot_be_sent_is_refused_without_a_traceback(call: Run, arguments: tuple[str, ...]) -> None:
    # "\udcff" is how Python shows a byte of the command line that is no UTF-8.
    done = call(*arguments)

    assert (done.code, done.out) == (2, b"")
    assert done.err


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" * 43, None], ids=["empty", "line", "no text", "directory"])
def test_a_file_without_a_secret_is_refused(run: Run, sourced: None, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret" if content is not None else tmp_path
    if content is not None:
        path.write_bytes(content)

    done = run("call", "health", "--host", f"localhost:{free_port()}", "--secret-access-key-file", path)

    assert (done.code, done.out) == (2, b"")
    assert done.err


def test_an_input_that_is_not_there_is_named(run: Run, sourced: None, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        done = run("call", "decrypt", "--input", path)

        assert done.code == 2
        assert str(path) in done.err


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_secret_nothing_is_called(
    run: Run, sourced: None, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("SIGV4_SECRET_ACCESS_KEY")
    if value is not None:
        monkeypatch.setenv("SIGV4_SECRET_ACCESS_KEY", value)

    done = run("call", "health")

    assert done.code == 2
    assert "set SIGV4_SECRET_ACCESS_KEY or give --secret-access-key-file" in done.err


def _received(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    if not received:
        raise ConnectionError
    return received


def _read_request(connection: socket.socket) -> None:
    """Read head and body, so that closing the socket loses no data."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += _received(connection)
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: ([0-9]+)", head)
    assert length is not None
    while len(body) < int(length[1]):
        body += _received(connection)


@contextmanager
def _answering(answer: bytes, context: ssl.SSLContext | None) -> Iterator[int]:
    """A port that answers its first caller with these bytes, for any request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as connection:
                connection.settimeout(60)
                if context is None:
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                    return
                with context.wrap_socket(connection, server_side=True) as secured:
                    _read_request(secured)
                    secured.sendall(answer)
                    secured.unwrap()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # If no client connected, this ends the wait for it.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\xff",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20_000,
    ],
    ids=lambda value: repr(value[-20:]),
)
def test_a_server_that_is_not_an_xks_proxy_is_reported(
    run: Run, environment: DevEnvironment, sourced: None, answer: bytes
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = environment.directory / "tls"
    context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")

    with _answering(answer, context) as port:
        done = run("call", "health", "--host", f"localhost:{port}")

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith(f"xksproxy: https://localhost:{port}: ")


def test_a_server_without_tls_is_reported(run: Run, sourced: None) -> None:
    with _answering(b"SSH-2.0-OpenSSH_9.2\r\n", None) as port:
        done = run("call", "health", "--host", f"localhost:{port}")

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith(f"xksproxy: https://localhost:{port}: ")
