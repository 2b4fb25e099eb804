"""State files that are removed or replaced by older ones while the proxy runs: no worker opens what was blocked."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_command
from server_support import OwnProxy, copy_state, encrypt_on_every_worker, stop, workers
from support import Proxy, eventually, lines_with, serve, wait_until_serving

from xksproxy.server.followers import proxies_of
from xksproxy.server.worker_status import newest_revisions

pytestmark = pytest.mark.slow


def command(proxy: Proxy, *arguments: str) -> int:
    return run_command(*arguments, "--config", proxy.environment.config).returncode


def causes(proxy: Proxy) -> set[str]:
    shown = run_command("status", "--json", "--config", proxy.environment.config)
    if shown.returncode == 2:  # it does not listen yet
        return set()
    return {item["cause"] for item in json.loads(shown.stdout)["conditions"]}


def state_of(proxy: Proxy) -> Path:
    return proxy.environment.directory / "state"


def remove_all(state: Path, _: Path) -> None:
    for path in state.iterdir():
        # Workers replace files meanwhile.
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def put_back(state: Path, old: Path) -> None:
    shutil.copytree(old, state, dirs_exist_ok=True)


def remove_manifest(state: Path) -> None:
    """Remove it at once: workers write to it meanwhile."""
    gone = state.with_name("manifest-that-was-removed")
    (state / "manifest").rename(gone)
    shutil.rmtree(gone)


def remove_with_the_records(state: Path, _: Path) -> None:
    remove_manifest(state)
    (state / "blocks-dev.json").unlink()


def remove_with_its_record(state: Path, _: Path) -> None:
    (state / "manifest" / "blocks-dev.json").unlink()
    (state / "blocks-dev.json").unlink()


def kill_workers(proxy: Proxy) -> None:
    old = workers(proxy)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers(proxy) - old), 2)


def replace_workers(proxy: Proxy) -> None:
    old = workers(proxy)
    config = proxy.environment.config
    config.write_text(config.read_text().replace("[server]\n", "[server]\nmax_in_flight = 77\n"))
    proxy.process.send_signal(signal.SIGHUP)

    def settled() -> bool:
        taken_back = lines_with(proxy.log, "configuration taken back")
        return workers(proxy) == old if taken_back else len(workers(proxy)) == 2 and not workers(proxy) & old

    eventually(settled)


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("renew", [kill_workers, replace_workers])
@pytest.mark.parametrize("damage", [remove_all, put_back, remove_with_the_records, remove_with_its_record])
def test_a_worker_that_starts_later_accepts_no_older_state(
    own_proxy: OwnProxy,
    tmp_path: Path,
    damage: Callable[[Path, Path], None],
    renew: Callable[[Proxy], None],
    *,
    noticed: bool,
) -> None:
    proxy = own_proxy.start()
    assert encrypt_on_every_worker(proxy) == {200}
    copy_state(state_of(proxy), tmp_path / "old")
    assert command(proxy, "block", "--key", "demo-key", "--keystore", "dev") == 0
    assert encrypt_on_every_worker(proxy) == {400}

    damage(state_of(proxy), tmp_path / "old")
    if noticed:
        eventually(lambda: causes(proxy) & {"state-unusable", "state-in-doubt"})
        time.sleep(1)  # until each worker has published what it refuses
    renew(proxy)

    for _ in range(3):
        assert 200 not in eventually(lambda: encrypt_on_every_worker(proxy))
    assert causes(proxy) & {"state-unusable", "state-in-doubt"}


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.parametrize("name", ["usage/key-demo-key.json", "keys-dev.json"])
def test_a_worker_that_starts_later_never_counts_or_identifies_a_key_anew(
    own_proxy: OwnProxy, name: str, *, noticed: bool
) -> None:
    proxy = own_proxy.start()
    assert encrypt_on_every_worker(proxy) == {200}
    (runtime,) = proxies_of(state_of(proxy))
    eventually(lambda: name in newest_revisions(runtime, lambda _: True))

    (state_of(proxy) / "manifest" / name).unlink()
    (state_of(proxy) / name).unlink()
    if noticed:
        eventually(lambda: causes(proxy) & {"state-unusable"})
    kill_workers(proxy)

    for _ in range(3):
        assert eventually(lambda: encrypt_on_every_worker(proxy)) == {500}
    eventually(lambda: "state-unusable" in causes(proxy))
    assert stop(proxy) == 0
    own_proxy.adopt(process := serve(proxy.environment.config, proxy.log))
    again = replace(proxy, process=process)
    eventually(lambda: "state-unusable" in causes(again))
    eventually(lambda: encrypt_on_every_worker(again), {500})


def test_counts_that_go_back_are_noticed_by_a_worker_that_starts_later(own_proxy: OwnProxy, tmp_path: Path) -> None:
    proxy = own_proxy.start()
    state = state_of(proxy)
    eventually((state / "number.json").exists)
    copy_state(state, tmp_path / "old")
    assert command(proxy, "block", "--key", "impotent-key", "--keystore", "dev") == 0
    before = (tmp_path / "old" / "number.json").read_text()
    eventually(lambda: (state / "number.json").read_text() != before)
    assert encrypt_on_every_worker(proxy) == {200}

    put_back(state, tmp_path / "old")

    eventually(lambda: "state-in-doubt" in causes(proxy))
    eventually(lambda: encrypt_on_every_worker(proxy), {500})
    (state / "doubt.json").unlink()
    eventually((state / "doubt.json").exists)
    kill_workers(proxy)
    eventually(lambda: encrypt_on_every_worker(proxy), {500})
    assert "state-in-doubt" in causes(proxy)


@pytest.mark.parametrize("damage", [put_back, remove_with_its_record])
def test_a_command_never_changes_an_older_file_than_the_workers_know(
    own_proxy: OwnProxy, tmp_path: Path, damage: Callable[[Path, Path], None]
) -> None:
    proxy = own_proxy.start()
    assert command(proxy, "block", "--key", "encrypt-only-key", "--keystore", "dev") == 0
    copy_state(state_of(proxy), tmp_path / "old")
    assert command(proxy, "block", "--key", "demo-key", "--keystore", "dev") == 0

    damage(state_of(proxy), tmp_path / "old")
    assert command(proxy, "block", "--key", "impotent-key", "--keystore", "dev") == 2
    assert command(proxy, "block", "--key", "impotent-key", "--keystore", "dev") == 2

    for _ in range(3):
        assert 200 not in encrypt_on_every_worker(proxy)


def test_commands_find_the_proxy_although_the_record_of_an_earlier_run_was_put_back(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    proxy = own_proxy.start()
    assert command(proxy, "block", "--key", "encrypt-only-key", "--keystore", "dev") == 0
    assert stop(proxy) == 0
    copy_state(state_of(proxy), tmp_path / "old")
    own_proxy.adopt(process := serve(proxy.environment.config, proxy.log))
    again = replace(proxy, process=process)
    wait_until_serving(proxy.environment.config, process)
    assert command(again, "block", "--key", "demo-key", "--keystore", "dev") == 0

    put_back(state_of(again), tmp_path / "old")
    assert command(again, "block", "--key", "impotent-key", "--keystore", "dev") == 2
    put_back(state_of(again), tmp_path / "old")
    assert command(again, "state", "accept") == 2

    assert 200 not in encrypt_on_every_worker(again)


def test_a_worker_that_starts_later_accepts_no_older_state_after_the_runtime_directory_was_removed(
    own_proxy: OwnProxy,
) -> None:
    proxy = own_proxy.start()
    (runtime,) = proxies_of(state_of(proxy))
    assert command(proxy, "block", "--key", "demo-key", "--keystore", "dev") == 0
    time.sleep(5)  # until the master knows what the workers have published

    shutil.rmtree(runtime)
    remove_with_its_record(state_of(proxy), Path())
    kill_workers(proxy)

    for _ in range(3):
        assert 200 not in eventually(lambda: encrypt_on_every_worker(proxy))


def test_a_change_that_workers_refuse_is_not_reported_as_followed(own_proxy: OwnProxy, tmp_path: Path) -> None:
    proxy = own_proxy.start()
    assert command(proxy, "block", "--key", "impotent-key", "--keystore", "dev") == 0
    copy_state(state_of(proxy), tmp_path / "old")
    block = ("block", "--key", "demo-key", "--keystore", "dev")
    assert command(proxy, *block) == 0
    assert command(proxy, "unblock", *block[1:]) == 0
    put_back(state_of(proxy), tmp_path / "old")

    assert command(proxy, *block) != 0

    eventually(lambda: 200 not in encrypt_on_every_worker(proxy))


def test_a_manifest_that_is_lost_while_the_proxy_is_stopped_puts_the_directory_in_doubt(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    for change in ("block", "unblock", "block"):
        assert command(proxy, change, "--key", "demo-key", "--keystore", "dev") == 0
    eventually(lambda: json.loads((state_of(proxy) / "number.json").read_text())["revision"] > 1)
    assert stop(proxy) == 0
    shutil.rmtree(state_of(proxy) / "manifest")
    (state_of(proxy) / "blocks-dev.json").unlink()

    assert run_command("state", "check", "--config", proxy.environment.config).returncode == 1
    own_proxy.adopt(process := serve(proxy.environment.config, proxy.log))
    again = replace(proxy, process=process)

    eventually(lambda: "state-in-doubt" in causes(again))
    eventually(lambda: encrypt_on_every_worker(again), {500})


def test_a_manifest_that_is_lost_while_the_proxy_runs_is_a_condition(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    remove_manifest(state_of(proxy))

    eventually(lambda: "state-unusable" in causes(proxy))
    eventually(lambda: encrypt_on_every_worker(proxy), {500})
