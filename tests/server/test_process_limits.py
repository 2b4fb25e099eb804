"""What the operating system may do with the service's processes, and which signals they follow."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from server_support import OwnProxy, assert_serving, lines_of_signals, stop, workers
from support import eventually, lines_with

_DUMPABLE = """
import ctypes, resource
from xksproxy.server.core_dumps import forbid_core_dumps, permit_core_dumps
get = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_CORE, (1000, 2000))
forbid_core_dumps()
print(get(), *resource.getrlimit(resource.RLIMIT_CORE))
permit_core_dumps()
print(get(), *resource.getrlimit(resource.RLIMIT_CORE))
"""
_DESCRIPTORS = """
import os, socket, sys
from pathlib import Path
from xksproxy.cli.output import prepare_streams, print_line
prepare_streams()
sock = socket.socket()
print_line("lost")
print_line("lost", err=True)
Path(sys.argv[1]).write_text(f"{[os.readlink(f'/proc/self/fd/{number}') for number in range(3)]} {sock.fileno() > 2}")
"""


def test_core_dumps_are_forbidden_and_can_be_permitted_again() -> None:
    done = subprocess.run([sys.executable, "-c", _DUMPABLE], capture_output=True, text=True, check=True)

    assert done.stdout == "0 0 2000\n1 2000 2000\n"


@pytest.mark.parametrize("closed", [{0, 1, 2}, {2}, {0}, {0, 2}])
def test_closed_standard_descriptors_are_opened_on_dev_null(tmp_path: Path, closed: set[int]) -> None:
    report = tmp_path / "report"

    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    subprocess.run(
        [sys.executable, "-c", _DESCRIPTORS, report],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=close,
        check=True,
    )

    assert report.read_text() == f"{['/dev/null'] * 3} True"


@pytest.mark.slow
def test_no_process_of_the_service_may_dump_core_unless_it_is_configured(own_proxy: OwnProxy) -> None:
    for name, setting, limit in (("first", "", "0"), ("second", "core_dumps = true", "unlimited")):
        proxy = own_proxy.start(name, server=setting, forked=False)
        for pid in (proxy.process.pid, *workers(proxy)):
            limits = Path(f"/proc/{pid}/limits").read_text()
            soft, hard = next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file"))
            assert soft == (limit if setting == "" else hard)


@pytest.mark.slow
def test_the_heartbeat_of_a_worker_needs_no_file(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(forked=False)

    for pid in workers(proxy):
        files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        assert [file for file in files if "memfd:heartbeat" in file] == ["/memfd:heartbeat (deleted)"]
        assert not [file for file in files if "wgunicorn-" in file]


@pytest.mark.slow
def test_signals_that_nobody_asked_for_are_ignored_with_one_line(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(forked=False)
    before = workers(proxy)
    names = ("SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU")

    for name in names:
        proxy.process.send_signal(getattr(signal, name))
        eventually(lambda name=name: lines_of_signals(proxy, name))

    assert_serving(proxy)
    assert workers(proxy) == before
    assert [len(lines_of_signals(proxy, name)) for name in names] == [1] * len(names)
    assert "Handling signal" not in proxy.log.read_text()
    assert stop(proxy) == 0


@pytest.mark.slow
def test_signals_that_nobody_asked_for_do_not_end_a_worker(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(forked=False)
    before = workers(proxy)

    for worker in before:
        for name in ("SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGPIPE", "SIGXFSZ"):
            os.kill(worker, getattr(signal, name))

    # What ended a worker would do so before it handles this one.
    proxy.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(lines_with(proxy.log, "configuration in place")) == len(before))
    assert workers(proxy) == before


_NO_FORK = """
import errno, os
from pathlib import Path
fork = os.fork
def refuse_or_fork():
    if Path(os.environ["NO_FORK"]).exists():
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = refuse_or_fork
"""


@pytest.mark.slow
def test_the_service_goes_on_while_no_process_can_be_started(
    own_proxy: OwnProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = tmp_path / "refusal"
    (tmp_path / "sitecustomize.py").write_text(_NO_FORK)
    monkeypatch.setenv("NO_FORK", str(refusal))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    proxy = own_proxy.start(forked=False)
    before = workers(proxy)
    refusal.touch()

    os.kill(min(before), signal.SIGKILL)

    eventually(lambda: lines_with(proxy.log, "worker cannot be started"))
    assert_serving(proxy)
    assert workers(proxy) == before - {min(before)}
    refusal.unlink()
    eventually(lambda: len(workers(proxy)) == len(before))
    assert "Traceback" not in proxy.log.read_text()
    assert stop(proxy) == 0
