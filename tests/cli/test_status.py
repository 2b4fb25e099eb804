"""`xksproxy status` without a configuration that the proxy could use."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_SECONDS


@pytest.mark.parametrize(
    "rest", ["[servr]\n", 'workers = "two"\n', "[[hsm]]\n", "[server]\nlisten = [\n", "x = 1\nx = 2\n"]
)
def test_it_needs_only_the_table_of_the_admin_listener(run: Callable[..., Any], tmp_path: Path, rest: str) -> None:
    config = tmp_path / "xksproxy.toml"
    config.write_text(f'{rest}\n[admin]\nlisten = "127.0.0.1:1"\n')

    done = run("status", "--config", config)

    assert done.code == 2
    assert "no proxy answers at http://127.0.0.1:1/status" in done.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[admin\n", "xksproxy.toml"),
        ("[admin]\nlisten = 5\n", "admin.listen"),
        ('[admin]\nlisten = "off"\n', "is off"),
        ('[admin]\nlisten = "127.0.0.1:1"\nhosts = [\n', "xksproxy.toml: not TOML"),
        ("[[admin]]\nlisten = [\n", "xksproxy.toml: not TOML"),
        ("x = [\n", "xksproxy.toml: not TOML"),
    ],
)
def test_an_admin_listener_that_cannot_be_found_is_named(
    run: Callable[..., Any], tmp_path: Path, text: str, complaint: str
) -> None:
    config = tmp_path / "xksproxy.toml"
    config.write_text(text)

    done = run("status", "--config", config)

    assert done.code == 2
    assert complaint in done.err
    assert "Traceback" not in done.err


@contextmanager
def answering(body: bytes) -> Iterator[int]:
    """A program that answers one request with this body; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(PATIENCE_SECONDS)


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"{}", "not the status of a proxy of this release"),
        (b"1", "not the status of a proxy of this release"),
        (b"null", "not the status of a proxy of this release"),
        (b'["ready"]', "not the status of a proxy of this release"),
        (b"[" * 100_000, "no proxy answers"),
        (b"<html>", "no proxy answers"),
    ],
)
def test_what_is_no_status_is_not_reported_as_a_defect(
    run: Callable[..., Any], tmp_path: Path, body: bytes, complaint: str, option: list[str]
) -> None:
    config = tmp_path / "xksproxy.toml"
    with answering(body) as port:
        config.write_text(f'[admin]\nlisten = "127.0.0.1:{port}"\n')

        done = run("status", "--config", config, *option)

    assert done.code == 2
    assert complaint in done.err
    assert "defect" not in done.err
    assert not done.out
