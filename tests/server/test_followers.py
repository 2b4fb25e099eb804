"""Commands that change the state report which workers follow."""

import os
import shutil
import signal
import subprocess

import pytest
from commands import run_command
from server_support import (
    OwnProxy,
    Wire,
    ask_admin,
    encrypt_body,
    key_path,
    on_every_worker,
    request,
    signed,
    signed_post,
    wait_for_every_worker,
    workers,
)
from support import Proxy, eventually

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.server.followers import proxies_of
from xksproxy.sigv4.keyring import generate_credential


def run(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, "--keystore", "dev", "--config", proxy.environment.config)


@pytest.fixture
def mine(own_proxy: OwnProxy) -> Proxy:
    return own_proxy.start()


def ask(proxy: Proxy, request: bytes) -> int:
    with Wire(proxy) as wire:
        return wire.ask(request).status


def named(proxy: Proxy) -> str:
    return f"every worker of this machine follows: process {', '.join(map(str, sorted(workers(proxy))))}\n"


def test_a_command_returns_when_every_worker_follows(mine: Proxy) -> None:
    body = encrypt_body(b"text")
    encrypt = signed_post(mine, key_path("encrypt"), body)

    blocked = run(mine, "block")
    assert (blocked.returncode, blocked.stderr) == (0, "")
    assert blocked.stdout.endswith(named(mine))
    assert on_every_worker(mine, encrypt) == {400}

    unblocked = run(mine, "unblock")
    assert (unblocked.returncode, unblocked.stdout.splitlines()[-1] + "\n") == (0, named(mine))
    assert on_every_worker(mine, encrypt) == {200}

    for command in (
        ("keys", "rotate", "demo-key"),
        ("keys", "disable-version", "demo-key", "1", "--force"),
        ("keys", "enable-version", "demo-key", "1"),
    ):
        done = run(mine, *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.endswith(named(mine))


def test_a_retired_credential_is_refused_by_every_worker_when_the_command_returns(mine: Proxy) -> None:
    directory = mine.environment.directory / "credentials"
    save_credential(directory, generate_credential())
    eventually(lambda: len(load_credentials(directory)) > 1)
    path, body = key_path("encrypt"), encrypt_body(b"text")
    encrypt = request("POST", path, signed(mine, path, body), body)

    done = run(mine, "credentials", "retire", mine.credential.access_key_id, "--force")

    assert (done.returncode, done.stderr) == (0, "")
    assert named(mine) in done.stdout
    assert on_every_worker(mine, encrypt) == {401}


def test_a_credential_is_retired_while_the_certificate_cannot_be_used(mine: Proxy) -> None:
    credentials, tls = mine.environment.directory / "credentials", mine.environment.directory / "tls"
    save_credential(credentials, generate_credential())
    certificate = tls / "server.pem"
    certificate.write_text("no certificate")
    text = f"server.tls: {certificate} with {tls / 'server-key.pem'} does not load"
    eventually(lambda: text in ask_admin(mine, "/status").content.decode())
    path, body = key_path("encrypt"), encrypt_body(b"text")
    encrypt = request("POST", path, signed(mine, path, body), body)

    done = run(mine, "credentials", "retire", mine.credential.access_key_id, "--force")

    assert (done.returncode, done.stderr) == (0, "")
    assert on_every_worker(mine, encrypt) == {401}
    assert text in ask_admin(mine, "/status").content.decode()


def test_a_retired_credential_whose_file_comes_back_is_refused_until_it_is_reinstated(mine: Proxy) -> None:
    directory = mine.environment.directory / "credentials"
    credential = generate_credential()
    path = save_credential(directory, credential)
    body = encrypt_body(b"text")
    target = key_path("encrypt")
    encrypt = request("POST", target, signed(mine, target, body, credential=credential), body)
    eventually(lambda: on_every_worker(mine, encrypt), {200})
    run(mine, "credentials", "retire", credential.access_key_id, "--force").check_returncode()

    path.with_name(path.name + ".retired").rename(path)  # as from a backup of yesterday
    text = f"retired credentials have a file again, and are refused: {credential.access_key_id}"
    eventually(lambda: text in ask_admin(mine, "/status").content.decode())
    assert on_every_worker(mine, encrypt) == {401}
    old = workers(mine)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(wait_for_every_worker(mine) - old), 2)
    assert on_every_worker(mine, encrypt) == {401}

    done = run(mine, "credentials", "reinstate", credential.access_key_id)
    assert (done.returncode, done.stderr) == (0, "")
    eventually(lambda: on_every_worker(mine, encrypt), {200})
    assert run(mine, "credentials", "reinstate", credential.access_key_id).returncode == 0
    run(mine, "credentials", "retire", credential.access_key_id, "--force").check_returncode()
    run(mine, "credentials", "reinstate", credential.access_key_id).check_returncode()
    eventually(lambda: on_every_worker(mine, encrypt), {200})


def test_workers_whose_record_was_removed_a_moment_ago_are_waited_for(mine: Proxy) -> None:
    state = mine.environment.directory / "state"
    for path in (state, state / "manifest"):
        (path / "services.json").unlink()

    done = run(mine, "block", "--key", "demo-key")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(named(mine))


def test_a_worker_that_does_not_follow_is_named(mine: Proxy) -> None:
    stopped = min(workers(mine))
    os.kill(stopped, signal.SIGSTOP)
    try:
        done = run(mine, "block", "--key", "demo-key")
    finally:
        os.kill(stopped, signal.SIGCONT)

    assert done.returncode == 1
    assert "is blocked on this machine" in done.stdout
    assert f"1 of 2 workers do not confirm that they follow it: process {stopped}\n" in done.stderr


def test_workers_that_follow_and_cannot_say_so_are_not_called_behind(mine: Proxy) -> None:
    encrypt = signed_post(mine, key_path("encrypt"), encrypt_body(b"text"))
    (runtime,) = proxies_of(mine.environment.directory / "state")
    shutil.rmtree(runtime)

    done = run(mine, "block")

    assert done.returncode == 1
    assert "2 of 2 workers do not confirm that they follow it: process " in done.stderr
    assert {ask(mine, encrypt) for _ in range(6)} == {400}


@pytest.mark.parametrize(
    "broken",
    ["[server\n", "unknown = 1\n", "credential of 0644", "no certificate"],
)
def test_a_block_needs_no_valid_configuration(mine: Proxy, broken: str) -> None:
    config, home = mine.environment.config, mine.environment.directory
    said = ""
    match broken:
        case "credential of 0644":
            next((home / "credentials").glob("*.toml")).chmod(0o644)
        case "no certificate":
            config.write_text(config.read_text().replace('certificate = "', 'certificate = "gone/'))
        case text:
            config.write_text(text + config.read_text())
            said = f"xksproxy: {config} has errors; using the state directory {home / 'state'}\n"

    done = run(mine, "block", "--key", "demo-key")

    assert (done.returncode, done.stderr) == (0, said)
    assert named(mine) in done.stdout
    assert on_every_worker(mine, signed_post(mine, key_path("encrypt"), encrypt_body(b"text"))) == {400}
