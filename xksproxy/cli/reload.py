"""``xksproxy reload``: sends SIGHUP and reports the result."""

import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from xksproxy.cli.block_target import find_state_directory
from xksproxy.cli.config_option import config_option
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.privilege import acting_as_owner, become_owner
from xksproxy.server import reload_verdict
from xksproxy.server.followers import is_running, proxies_of, wait_for_workers_of
from xksproxy.server.worker_status import read_status

DECISION_SECONDS: Final = 45.0
"""The maximum time for the decision of the master. systemd ends a reload after TimeoutStartSec."""

FOLLOW_SECONDS: Final = 60.0
"""The maximum time for the workers, which use the new configuration one after another."""


@click.command("reload")
@config_option
def reload_configuration(config_file: Path) -> None:
    """Make the proxy on this machine read its configuration again, and report whether it uses it.

    The service itself checks the configuration, so the command needs no PIN. If the configuration cannot be used, the
    old one stays in use, and the command prints the reasons; exit code 1. Exit code 2 if no proxy runs.

    \b
    Example:
      xksproxy reload --config /etc/xksproxy/xksproxy.toml
    """
    proxies = _proxies(config_file)
    if not proxies:
        print_error("no proxy runs on this machine with this configuration; nothing was done")
        sys.exit(COULD_NOT_RUN)
    for runtime, master in proxies.items():
        with acting_as_owner(runtime):
            _reload(runtime, master)


def _proxies(config_file: Path) -> dict[Path, int]:
    """The master process of each proxy, by its runtime directory.

    A unit's ExecReload has them in its environment, so a configuration that cannot be read does not hide the proxy.
    Otherwise its state directory is enough.
    """
    master, parent = os.environ.get("MAINPID"), os.environ.get("RUNTIME_DIRECTORY")
    if master and parent:
        runtimes = Path(parent.partition(":")[0]).glob("xksproxy-*")
        return {runtime: int(master) for runtime in runtimes if is_running(runtime)}
    directory = find_state_directory(config_file)
    become_owner(directory)
    return proxies_of(directory)


def _reload(runtime: Path, master: int) -> None:
    with _alone(runtime, master):
        with _written(runtime, master):
            request = reload_verdict.request_reload(runtime)
        os.kill(master, signal.SIGHUP)
        verdict = reload_verdict.wait_for_verdict(runtime, request, DECISION_SECONDS)
    if verdict is None:
        print_error(f"no decision within {DECISION_SECONDS:.0f} s; `xksproxy status` and the log show what happens")
        sys.exit(FOUND_SOMETHING_WRONG)
    if verdict.problems:
        print_error("the configuration was refused; the old one stays in use:", *verdict.problems)
        sys.exit(FOUND_SOMETHING_WRONG)
    followers = wait_for_workers_of(runtime, master, lambda worker: worker.status.reload == request, FOLLOW_SECONDS)
    if followers.behind:
        print_error(f"process {', '.join(map(str, followers.behind))} do not use the configuration; the log says why")
        sys.exit(FOUND_SOMETHING_WRONG)
    print_line(f"the configuration is in use: process {', '.join(map(str, _staying(runtime, followers.following)))}")


def _staying(runtime: Path, pids: Sequence[int]) -> Sequence[int]:
    """Those of some workers that are not being replaced; all if none stays."""
    read = {pid: read_status(runtime, pid) for pid in pids}
    return [pid for pid, status in read.items() if status is None or not status.leaving] or pids


@contextmanager
def _written(runtime: Path, master: int) -> Iterator[None]:
    """Say what to do if the runtime directory cannot be written, as one without room."""
    try:
        yield
    except OSError as error:
        print_error(
            f"{runtime}: {error.strerror}, so the service cannot be asked; make room there, or send SIGHUP to process"
            f" {master} and read its log"
        )
        sys.exit(COULD_NOT_RUN)


@contextmanager
def _alone(runtime: Path, master: int) -> Iterator[None]:
    """Wait for other reload commands, because there is one request at a time."""
    with _written(runtime, master):
        descriptor = os.open(runtime / "reload.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
