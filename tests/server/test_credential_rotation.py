"""Credentials and certificates change on disk while KMS goes on calling (R-AUTH-11, R-AUTH-12)."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
from commands import run_command
from server_support import HEALTH_MESSAGE, OwnProxy, Wire, assert_serving, workers, written_log
from support import PATIENCE_SECONDS, Proxy, eventually
from xksproxy_tools.development import certificates

from xksproxy.client.xks import XksClient
from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.spec.uri import Operation

pytestmark = pytest.mark.slow


class Host:
    """One of KMS's hosts: it calls over a kept connection, with the credential it was last told."""

    def __init__(self, proxy: Proxy, credential: Credential) -> None:
        self._proxy = proxy
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.credential = credential
        self.answers: list[tuple[str, int]] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._ended.is_set():
                credential = self.credential
                with XksClient(
                    self._proxy.endpoint(credential=credential), self._proxy.context(), timeout=PATIENCE_SECONDS
                ) as client:
                    while credential is self.credential and not self._ended.is_set():
                        answer = client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE)
                        self.answers.append((credential.access_key_id, answer.status))
                        if answer.status != 200:
                            self.failures.append(str(answer.body))
                        time.sleep(0.02)
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            self.failures.append(repr(error))

    def calls(self, credential: Credential) -> int:
        return sum(access_key_id == credential.access_key_id for access_key_id, _ in self.answers)


def _command(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, environment={**os.environ, "XKSPROXY_CONFIG": str(proxy.environment.config)})


def _own(made: OwnProxy, **options: Any) -> Proxy:
    """A proxy whose every worker serves, and whose key store has one credential; that of the tests may have more."""

    def only_one(text: str) -> str:
        directory = made.directory / "own" / "credentials"
        for path in sorted(directory.iterdir())[1:]:
            path.unlink()
        return text

    return made.start(edit=only_one, **options)


@contextmanager
def _seen_at_once(proxy: Proxy) -> Iterator[None]:
    """What is done to files inside no worker sees half-way."""
    pids = workers(proxy)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _statuses(proxy: Proxy, credential: Credential, times: int = 12) -> set[int]:
    """The answers on several new connections, which find every worker."""
    found = set()
    for _ in range(times):
        with XksClient(proxy.endpoint(credential=credential), proxy.context()) as client:
            found.add(client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE).status)
    return found


def _last_used(proxy: Proxy) -> dict[str, str | None]:
    done = _command(proxy, "credentials", "list", "--keystore", "dev", "--json")
    assert done.returncode == 0, done.stderr
    return {row["access_key_id"]: row["last_used"] for row in json.loads(done.stdout)}


def test_a_credential_is_rotated_under_load_without_a_failed_request(own_proxy: OwnProxy) -> None:
    proxy = _own(own_proxy)
    before = workers(proxy)
    directory = proxy.environment.directory / "credentials"
    (old,) = load_credentials(directory)
    with Host(proxy, old) as first, Host(proxy, old) as second, Host(proxy, old) as third:
        made = _command(proxy, "credentials", "create", "--keystore", "dev", "--json")
        new = next(item for item in load_credentials(directory) if item != old)
        assert json.loads(made.stdout)["access_key_id"] == new.access_key_id
        eventually(lambda: _statuses(proxy, new) == {200})

        first.credential = new
        eventually(lambda: first.calls(new) > 20)
        eventually(lambda: _last_used(proxy)[old.access_key_id])
        refused = _command(proxy, "credentials", "retire", "--keystore", "dev", old.access_key_id)
        assert refused.returncode == 1
        assert "was used" in refused.stderr
        for host in (second, third):
            host.credential = new
        eventually(lambda: all(host.calls(new) > 20 for host in (first, second, third)))
        eventually(lambda: all(_last_used(proxy).values()))

        retired = _command(proxy, "credentials", "retire", "--keystore", "dev", old.access_key_id, "--force")
        assert retired.returncode == 0, retired.stderr
        eventually(lambda: _statuses(proxy, old) == {401})
        after = first.calls(new)
        eventually(lambda: first.calls(new) > after + 20)

    assert [host.failures for host in (first, second, third)] == [[], [], []]
    assert {status for host in (first, second, third) for _, status in host.answers} == {200}
    assert workers(proxy) == before
    said = written_log(replace(proxy, credential=new)) + made.stdout + refused.stderr + retired.stdout
    assert old.secret_access_key not in said
    assert new.secret_access_key not in said


def test_a_certificate_that_was_replaced_is_served_without_cutting_a_connection(own_proxy: OwnProxy) -> None:
    proxy = _own(own_proxy)
    tls = proxy.environment.directory / "tls"
    authority = certificates.load_authority((tls / "ca.pem").read_bytes(), (tls / "ca-key.pem").read_bytes())
    certificate, key = certificates.issue(authority, "renewed", hosts=("localhost",))

    def served() -> set[str]:
        names = set()
        for _ in range(8):
            with Wire(proxy) as wire:
                subject = dict(part for parts in wire.socket.getpeercert()["subject"] for part in parts)  # type: ignore[index]
                names.add(subject["commonName"])
        return names

    assert served() == {"localhost"}
    with Host(proxy, proxy.credential) as host:
        for name, content in (("server.pem", certificate), ("server-key.pem", key)):
            (tls / "next").write_bytes(content)
            (tls / "next").chmod(0o600)
            (tls / "next").rename(tls / name)

        eventually(lambda: served() == {"renewed"})
        answers = len(host.answers)
        eventually(lambda: len(host.answers) > answers + 20)

    assert host.failures == []


@pytest.mark.parametrize("what", ["half a credential", "open to others", "half a certificate", "key of another"])
def test_what_cannot_be_used_leaves_the_old_in_place_and_is_said_once(own_proxy: OwnProxy, what: str) -> None:
    proxy = _own(own_proxy, server="workers = 1")
    directory, tls = proxy.environment.directory / "credentials", proxy.environment.directory / "tls"
    kept = {path: path.read_bytes() for path in (tls / "server.pem", tls / "server-key.pem")}
    new = generate_credential()
    with _seen_at_once(proxy):
        bad = save_credential(directory, new)
        match what:
            case "half a credential":
                bad.write_text(f'access_key_id = "{new.access_key_id}"\nsecret_acc')
            case "open to others":
                bad.chmod(0o644)
            case "half a certificate":
                (tls / "server.pem").write_bytes(kept[tls / "server.pem"][:200])
            case _:
                shutil.copy(tls / "ca-key.pem", tls / "server-key.pem")

    eventually(lambda: "changed credentials or certificates refused" in proxy.log.read_text())
    assert_serving(proxy)
    assert _statuses(proxy, new, 2) == {401}
    time.sleep(3)  # the watch looks once a second: were it to repeat itself, it would have
    assert written_log(proxy).count("changed credentials or certificates refused") == 1
    assert new.secret_access_key not in proxy.log.read_text()

    with _seen_at_once(proxy):
        for path, content in kept.items():
            path.write_bytes(content)
        bad.unlink()
        save_credential(directory, new)
    eventually(lambda: _statuses(proxy, new, 2) == {200})


def test_an_edit_of_the_configuration_waits_for_sighup_although_credentials_change(own_proxy: OwnProxy) -> None:
    proxy = _own(own_proxy, server="workers = 1")
    config: Path = proxy.environment.config
    config.write_text("[server]\nthis is not finished")
    new = generate_credential()
    save_credential(proxy.environment.directory / "credentials", new)

    eventually(lambda: _statuses(proxy, new, 2) == {200})
    assert_serving(proxy)


def test_only_verified_requests_count_as_use(own_proxy: OwnProxy) -> None:
    proxy = _own(own_proxy, server="workers = 1")
    known, new, last = generate_credential(), generate_credential(), generate_credential()
    forged = Credential(known.access_key_id, generate_credential().secret_access_key)
    for credential in (known, new, last):
        save_credential(proxy.environment.directory / "credentials", credential)
    eventually(lambda: _statuses(proxy, new, 2) == {200})

    assert _statuses(proxy, forged, 3) == {401}
    assert _statuses(proxy, generate_credential(), 3) == {401}

    eventually(lambda: _last_used(proxy)[new.access_key_id])
    eventually(lambda: _statuses(proxy, last, 2) == {200})  # whose use is recorded after whatever was used before
    eventually(lambda: _last_used(proxy)[last.access_key_id])
    assert _last_used(proxy)[known.access_key_id] is None
