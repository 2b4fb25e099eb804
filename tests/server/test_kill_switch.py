"""Blocks that work when nothing else does."""

import json
import os
import signal
import subprocess
from pathlib import Path

from commands import run_command
from server_support import OwnProxy, encrypt_on_every_worker, workers
from support import eventually, small_file_system


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


def test_a_block_of_all_key_stores_needs_no_configuration(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    state = proxy.environment.directory / "state"
    assert encrypt_on_every_worker(proxy) == {200}

    done = run("block", "--state", state, "--all", "--reason", "incident 4711")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("each key store is blocked on this machine\n")
    assert encrypt_on_every_worker(proxy) == {400}
    shown = run("status", "--json", "--config", proxy.environment.config)
    assert shown.returncode == 1
    blocked = {item["keystore"] for item in json.loads(shown.stdout)["conditions"] if item["cause"] == "blocked"}
    assert blocked == {item["name"] for item in json.loads(shown.stdout)["keystores"]}
    old = workers(proxy)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(workers(proxy) - old), 2)
    eventually(lambda: encrypt_on_every_worker(proxy), {400})

    assert run("unblock", "--all", "--config", proxy.environment.config).returncode == 0
    assert encrypt_on_every_worker(proxy) == {200}
    assert run("unblock", "--all", "--config", proxy.environment.config).returncode == 1
    assert run("block", "--all", "--keystore", "dev", "--config", proxy.environment.config).returncode == 2


def fill(directory: Path) -> None:
    with (directory / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_block_is_written_on_a_full_disk(own_proxy: OwnProxy) -> None:
    with small_file_system(size=4 << 20) as disk:
        state = disk / "state"
        proxy = own_proxy.start(edit=lambda text: text.replace('directory = "state"', f'directory = "{state}"'))
        eventually((state / "reserve").exists)
        fill(disk)

        done = run("block", "--keystore", "dev", "--key", "demo-key", "--config", proxy.environment.config)

        assert (done.returncode, done.stderr) == (0, "")
        assert encrypt_on_every_worker(proxy) == {400}
        fill(disk)
        refused = run("block", "--all", "--config", proxy.environment.config)
        assert refused.returncode == 2
        assert "systemctl stop xksproxy" in refused.stderr
        again = run("block", "--keystore", "dev", "--key", "demo-key", "--config", proxy.environment.config)
        assert "is blocked on this machine" in again.stdout
        assert "every worker of this machine follows" in again.stdout
        own_proxy.end()
