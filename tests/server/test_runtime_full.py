"""The directory for metrics and status has no room, or is filled up by somebody else: the proxy serves and says so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from server_support import HEALTH, OwnProxy, Wire, ask_admin, assert_serving, signed_post, stop, workers
from support import Proxy, eventually, lines_with, metrics_text, small_file_system

pytestmark = pytest.mark.slow

FULL = ("DEGRADED", "runtime-full")


@pytest.fixture
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The parent of runtime directories, on a file system of so many bytes and files."""
    size, inodes = request.param
    with small_file_system(size=size, inodes=inodes) as directory:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
        yield directory


def conditions(proxy: Proxy) -> set[tuple[str, str]]:
    found = json.loads(ask_admin(proxy, "/status").content)["conditions"]
    return {(item["severity"], item["cause"]) for item in found}


def requests(proxy: Proxy) -> float:
    """The number of health checks that were answered."""
    lines = [line for line in metrics_text(proxy).splitlines() if line.startswith("xksproxy_requests_total")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'xks_operation="GetHealthStatus"' in line)


def wait_until_published(proxy: Proxy, directory: Path) -> None:
    """Until each worker has written its present metrics."""
    for pid in workers(proxy):
        path = directory / f"metrics-{pid}.worker"
        before = path.stat().st_mtime_ns
        eventually(lambda path=path, before=before: path.stat().st_mtime_ns > before)


def fill(directory: Path) -> None:
    """Leave no room for anything."""
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={directory / 'filler'}", "bs=4096", "status=none"], check=False, stderr=-3
    )
    assert os.statvfs(directory).f_bavail == 0


@pytest.mark.parametrize("runtime", [(4096 * 16, 1000), (2**24, 3)], ids=["no room", "no inode"], indirect=True)
def test_without_room_at_the_start_the_proxy_serves_and_says_so(own_proxy: OwnProxy, runtime: Path) -> None:
    proxy = own_proxy.start(
        edit=lambda text: text.replace("[[keystore]]", "[[keystore]]\nrequests_per_second = 1000", 1), serving=False
    )
    before = eventually(lambda: len(workers(proxy)) == 2 and workers(proxy))

    assert_serving(proxy, 8)
    eventually(lambda: FULL in conditions(proxy))
    eventually(lambda: lines_with(proxy.log, " condition ", 'cause="runtime-full"', "No space left on device"))
    command = [sys.executable, "-m", "xksproxy", "status", "--config", str(proxy.environment.config)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (shown.returncode, "runtime-full" in shown.stdout) == (1, True)
    assert "\nxksproxy_workers 1.0\n" in metrics_text(proxy)  # of the worker that is asked

    os.kill(min(before), signal.SIGKILL)
    eventually(lambda: len(workers(proxy)) == 2 and workers(proxy) != before)
    assert_serving(proxy, 8)
    assert stop(proxy) == 0


@pytest.mark.parametrize("runtime", [(2**23, 1000)], indirect=True)
def test_a_directory_that_fills_up_later_changes_nothing(own_proxy: OwnProxy, runtime: Path) -> None:
    proxy = own_proxy.start()
    before = workers(proxy)
    fill(runtime)

    counted = requests(proxy)
    # More kinds of answers than before: their series are new.
    for path in (HEALTH, "/dev/kms/xks/v1/keys/none/metadata", "/none", "/dev/kms/xks/v1/keys/demo-key/encrypt"):
        with Wire(proxy) as wire:
            wire.ask(signed_post(proxy, path))
    eventually(lambda: requests(proxy) == counted + 1)
    wait_until_published(proxy, next(runtime.glob("xksproxy-*")))
    assert FULL not in conditions(proxy)
    assert workers(proxy) == before

    refused = run_command("reload", "--config", proxy.environment.config)
    assert refused.returncode == 2
    what_to_do = f"make room there, or send SIGHUP to process {proxy.process.pid}"
    assert f"No space left on device, so the service cannot be asked; {what_to_do}" in refused.stderr

    # Counts of a worker that is killed while there is no room stay nevertheless.
    os.kill(min(before), signal.SIGKILL)
    eventually(lambda: len(workers(proxy)) == 2 and workers(proxy) != before)
    assert requests(proxy) == counted + 1


def test_damaged_metrics_files_leave_metrics_and_status_readable(
    own_proxy: OwnProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    proxy = own_proxy.start()
    (directory,) = tmp_path.glob("xksproxy-*")
    for number, content in enumerate((b"", b"\xff" * 5000)):
        (directory / f"metrics-{number}.worker").write_bytes(content)

    for _ in range(4):
        assert ask_admin(proxy, "/metrics").status == 200
        assert ask_admin(proxy, "/status").status == 200

    eventually(lambda: len(lines_with(proxy.log, "metrics file set aside")) == 2)


def test_counts_of_workers_that_are_killed_stay_and_their_files_go(
    own_proxy: OwnProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    proxy = own_proxy.start(server="workers = 1")
    (directory,) = tmp_path.glob("xksproxy-*")
    for number in range(1, 4):
        assert_serving(proxy, 1)
        (pid,) = workers(proxy)
        wait_until_published(proxy, directory)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: workers(proxy) not in (set(), {pid}))
        eventually(lambda number=number: _asked(proxy) == number)

    assert len([path for path in directory.iterdir() if path.name.startswith("metrics-")]) == 2


def _asked(proxy: Proxy) -> float:
    """The requests counted; 0 while the new worker does not answer yet."""
    try:
        return requests(proxy)
    except OSError:
        return 0
