"""A worker that replaces another one serves what was accepted, whatever the files say by then."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
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
from support import Proxy, eventually

from xksproxy.config.load import load_config

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


def encrypts(proxy: Proxy) -> set[int]:
    statuses = set()
    for _ in range(10):
        with Wire(proxy) as wire:
            statuses.add(wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text"))).status)
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
