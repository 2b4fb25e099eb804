"""Credential files that are copied, replaced or removed by hand have one line in the audit log."""

from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from server_support import OwnProxy, audit_lines, chained, stop
from support import Proxy, eventually, serve, wait_until_serving

from xksproxy.config.credentials import RETIRED_SUFFIX, save_credential
from xksproxy.sigv4.keyring import Credential, generate_credential

pytestmark = pytest.mark.slow


def changes(log: Path) -> list[dict[str, Any]]:
    """Key store and changed access key ids of each line, in the order of the log."""
    names = ("keystore", "added", "removed", "replaced")
    lines = audit_lines(log, '"message":"credential files changed"')
    return [{name: line[name] for name in names if name in line} for line in lines]


def credentials_of(proxy: Proxy) -> Path:
    return proxy.environment.directory / "credentials"


def run(proxy: Proxy, *arguments: str) -> str:
    done = run_command(*arguments, "--config", proxy.environment.config)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_each_change_by_hand_has_one_line_over_all_workers_and_restarts(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    new = generate_credential()
    expected = []

    def follows(**change: list[str]) -> None:
        expected.append({"keystore": "dev", **change})
        eventually(lambda: changes(log), expected)

    path = save_credential(credentials_of(proxy), new)
    follows(added=[new.access_key_id])
    path.unlink()
    save_credential(credentials_of(proxy), Credential(new.access_key_id, generate_credential().secret_access_key))
    follows(replaced=[new.access_key_id])
    path.rename(path.with_name(path.name + RETIRED_SUFFIX))
    follows(removed=[new.access_key_id])

    assert stop(proxy) == 0
    path.with_name(path.name + RETIRED_SUFFIX).rename(path)
    process = serve(proxy.environment.config, proxy.log)
    own_proxy.adopt(process)
    wait_until_serving(proxy.environment.config, process)
    follows(added=[new.access_key_id])
    assert new.secret_access_key not in log.read_text()
    run(proxy, "audit", "verify", str(log))


def test_changes_by_commands_have_no_second_line(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))

    run(proxy, "credentials", "create", "--keystore", "dev")
    (created,) = eventually(lambda: audit_lines(log, '"message":"credential created"'))
    run(proxy, "credentials", "retire", "--keystore", "dev", "--force", created["access_key_id"])

    marker = save_credential(credentials_of(proxy), generate_credential())
    eventually(lambda: changes(log), [{"keystore": "dev", "added": [marker.stem]}])


def test_a_refused_file_has_a_line_only_once_it_is_in_use(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))

    prepared = save_credential(tmp_path, generate_credential())
    prepared.chmod(0o644)
    path = prepared.rename(credentials_of(proxy) / prepared.name)
    eventually(lambda: "changed credentials or certificates refused" in proxy.log.read_text())
    assert changes(log) == []
    path.chmod(0o600)
    eventually(lambda: changes(log), [{"keystore": "dev", "added": [path.stem]}])
