"""A worker that replaces another one serves what was accepted, whatever the files say by then."""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from server_support import (
    OwnProxy,
    Wire,
    ask_admin,
    encrypt_body,
    key_path,
    signed_post,
    wait_for_every_worker,
    workers,
)
from support import Proxy, eventually, lines_with, metrics_text

from xksproxy.config.load import load_config
from xksproxy.server.followers import proxies_of

PERMIT, FORBID = "permit (principal, action, resource);", "forbid (principal, action, resource);"


def disable_the_key(proxy: Proxy) -> None:
    config = proxy.environment.config
    config.write_text(config.read_text().replace('id = "demo-key"', 'id = "demo-key"\ndisabled = true'))


def break_the_configuration(proxy: Proxy) -> None:
    proxy.environment.config.write_text("[server]\nthis is not finished")


def forbid_everything(proxy: Proxy) -> None:
    (proxy.environment.directory / "all.cedar").write_text(FORBID)


def break_the_policy(proxy: Proxy) -> None:
    (proxy.environment.directory / "all.cedar").write_text("permit (")


def break_a_credential(proxy: Proxy) -> None:
    path = proxy.environment.directory / "credentials" / "unfinished.toml"
    path.touch(0o600)
    path.write_text('access_key_id = "AB')


def break_the_certificate(proxy: Proxy) -> None:
    path = Path(load_config(proxy.environment.config).server.tls.certificate)
    path.write_text(path.read_text()[:100])


def kill_every_worker(proxy: Proxy) -> None:
    old = workers(proxy)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(wait_for_every_worker(proxy) - old), 2)


@contextmanager
def reload_that_waits_for_its_turn(proxy: Proxy) -> Iterator[None]:
    """The master has accepted, and no worker has followed, until the end of the block."""
    (runtime,) = proxies_of(Path(load_config(proxy.environment.config).state.directory))
    with (runtime / "reload-turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = len(lines_with(proxy.log, "configuration read again"))
        proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(lines_with(proxy.log, "configuration read again")), before + 1)
        yield


def encrypts(proxy: Proxy, key_id: str = "demo-key") -> set[int]:
    statuses = set()
    for _ in range(10):
        with Wire(proxy) as wire:
            statuses.add(wire.ask(signed_post(proxy, key_path("encrypt", key_id), encrypt_body(b"text"))).status)
    return statuses


@pytest.fixture
def proxy(own_proxy: OwnProxy) -> Proxy:
    """One whose key store has a policy that permits everything."""

    def edit(text: str) -> str:
        (own_proxy.directory / "own" / "all.cedar").write_text(PERMIT)
        return text.replace('uri_path_prefix = "/dev"', 'uri_path_prefix = "/dev"\npolicies = ["all.cedar"]')

    return own_proxy.start(edit=edit)


@pytest.mark.parametrize("edit", [disable_the_key, break_the_configuration, forbid_everything, break_the_policy])
def test_what_was_edited_without_a_reload_is_not_used_by_a_new_worker(
    proxy: Proxy, edit: Callable[[Proxy], None]
) -> None:
    text = proxy.environment.config.read_text()
    edit(proxy)

    if edit is break_the_configuration:
        old = workers(proxy)
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(workers(proxy) - old), 2)
        proxy.environment.config.write_text(text)
        wait_for_every_worker(proxy)
    else:
        kill_every_worker(proxy)

    assert encrypts(proxy) == {200}


@pytest.mark.parametrize("edit", [break_a_credential, break_the_certificate])
def test_a_new_worker_serves_while_a_credential_or_certificate_cannot_be_used(
    proxy: Proxy, edit: Callable[[Proxy], None]
) -> None:
    certificate = Path(load_config(proxy.environment.config).server.tls.certificate)
    content = certificate.read_bytes()
    edit(proxy)

    kill_every_worker(proxy)

    assert encrypts(proxy) == {200}
    refused = "changed credentials or certificates are not in use"
    eventually(lambda: refused in ask_admin(proxy, "/status").content.decode())
    (proxy.environment.directory / "credentials" / "unfinished.toml").unlink(missing_ok=True)
    certificate.write_bytes(content)
    eventually(lambda: refused not in ask_admin(proxy, "/status").content.decode())
    assert encrypts(proxy) == {200}


def test_a_policy_that_was_edited_waits_for_a_reload_although_credentials_change(proxy: Proxy) -> None:
    forbid_everything(proxy)
    os.utime(next((proxy.environment.directory / "credentials").glob("*.toml")))
    eventually(lambda: proxy.log.read_text().count("changed credentials or certificates in place"), 2)
    assert encrypts(proxy) == {200}

    proxy.process.send_signal(signal.SIGHUP)
    refused = eventually(lambda: encrypts(proxy) - {200})
    kill_every_worker(proxy)

    assert encrypts(proxy) == refused


@pytest.mark.parametrize(
    "edit",
    [
        disable_the_key,
        break_the_configuration,
        forbid_everything,
        break_the_policy,
        break_a_credential,
        break_the_certificate,
    ],
)
def test_workers_take_what_the_master_accepted_and_not_what_is_in_the_files_by_then(
    proxy: Proxy, edit: Callable[[Proxy], None]
) -> None:
    config = proxy.environment.config
    another = '[[keystore.keys]]\nid = "another-key"\nlabel = "demo-key"\n\n[[keystore.keys]]\n'
    text = config.read_text().replace("[[keystore.keys]]\n", another, 1)
    config.write_text(text)
    with reload_that_waits_for_its_turn(proxy):
        edit(proxy)

    eventually(lambda: len(lines_with(proxy.log, "configuration in place")), 2)

    config.write_text(text)
    assert encrypts(proxy) == {200}
    assert encrypts(proxy, "another-key") == {200}


def configuration(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = shown(proxy)["configuration"]
    return found


def shown(proxy: Proxy) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask_admin(proxy, "/status").content)
    return document


def numbers_of_workers(proxy: Proxy) -> list[int]:
    return [worker["configuration"] for worker in shown(proxy)["workers"]]


def reload_of(proxy: Proxy) -> subprocess.CompletedProcess[str]:
    return run_command("reload", "--config", proxy.environment.config)


def test_each_accepted_reload_has_the_next_number_and_a_refused_one_none(proxy: Proxy) -> None:
    assert configuration(proxy)["number"] == 1
    break_the_policy(proxy)
    assert reload_of(proxy).returncode == 1
    (proxy.environment.directory / "all.cedar").write_text(PERMIT)
    assert numbers_of_workers(proxy) == [1, 1]
    assert reload_of(proxy).returncode == 0

    assert configuration(proxy)["number"] == 2
    assert configuration(proxy)["differ_since"] is None
    eventually(lambda: numbers_of_workers(proxy), [2, 2])
    kill_every_worker(proxy)
    eventually(lambda: numbers_of_workers(proxy), [2, 2])
    assert lines_with(proxy.log, "configuration read again", "number=2")
    assert len(lines_with(proxy.log, "configuration in place", "number=2")) == 2
    assert eventually(lambda: lines_with(proxy.log, "reloaded  ", "number=2"))
    assert "\nxksproxy_config_number 2.0\n" in eventually(lambda: metrics_text(proxy))
    assert "\nxksproxy_config_accepted_number 2.0\n" in metrics_text(proxy)
    assert "2 workers, configuration 2\n" in run_command("status", "--config", proxy.environment.config).stdout


@pytest.mark.parametrize("edit", [disable_the_key, forbid_everything])
def test_a_file_with_other_content_than_was_accepted_is_named_until_it_is_accepted_or_put_back(
    proxy: Proxy, edit: Callable[[Proxy], None]
) -> None:
    policy, config = proxy.environment.directory / "all.cedar", proxy.environment.config
    text = config.read_text()
    assert configuration(proxy)["differing_files"] == []
    before = time.time()

    edit(proxy)

    since = eventually(lambda: configuration(proxy)["differ_since"])
    assert before - 1 <= datetime.fromisoformat(since).timestamp() <= time.time()
    named = str(config if edit is disable_the_key else policy)
    assert configuration(proxy)["differing_files"] == [named]
    assert f"other content than was accepted, so not in use: {named}" in printed_status(proxy)
    eventually(lambda: "\nxksproxy_config_files_differ_timestamp_seconds 0.0\n" not in metrics_text(proxy))
    config.write_text(text)
    policy.write_text(PERMIT)
    eventually(lambda: configuration(proxy)["differ_since"], None)
    eventually(lambda: "\nxksproxy_config_files_differ_timestamp_seconds 0.0\n" in metrics_text(proxy))

    edit(proxy)
    eventually(lambda: configuration(proxy)["differ_since"])
    assert reload_of(proxy).returncode == 0
    assert configuration(proxy)["differ_since"] is None


def test_a_worker_that_has_not_followed_is_shown_with_its_number(proxy: Proxy) -> None:
    with reload_that_waits_for_its_turn(proxy):
        eventually(lambda: configuration(proxy)["number"], 2)
        pids = workers(proxy)
        assert all(f"process {pid} uses configuration 1\n" in printed_status(proxy) for pid in pids)
        assert "\nxksproxy_config_number 1.0\n" in metrics_text(proxy)

    eventually(lambda: numbers_of_workers(proxy), [2, 2])
    eventually(lambda: "uses configuration" in printed_status(proxy), False)


def test_a_change_that_is_taken_back_leads_to_the_former_number(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 1")
    text = proxy.environment.config.read_text()
    proxy.environment.config.write_text(text.replace("127.0.0.1", "192.0.2.1", 1))

    assert reload_of(proxy).returncode == 1

    assert (configuration(proxy)["number"], numbers_of_workers(proxy)) == (1, [1])
    proxy.environment.config.write_text(text)
    assert reload_of(proxy).returncode == 0
    assert configuration(proxy)["number"] == 3
    eventually(lambda: numbers_of_workers(proxy), [3])


def printed_status(proxy: Proxy) -> str:
    return run_command("status", "--config", proxy.environment.config).stdout
