"""Whether the machine gives what the configuration may use: open files, memory, room on disks."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from xksproxy.config.findings import Finding
from xksproxy.config.model import Config

THREADS_BESIDE_SESSIONS: Final = 8
"""Threads of a worker that serves, without those of its HSM sessions."""

FILES_BESIDE_CONNECTIONS: Final = 400
"""Open files that a worker needs beside its connections: plain listeners, HSMs, state, logs."""

_MEBIBYTE: Final = 2**20
_MASTER_BYTES: Final = 60 * _MEBIBYTE
_WORKER_BYTES: Final = 90 * _MEBIBYTE
_CONNECTION_BYTES: Final = 100 * 2**10
"""A TLS connection and what it may have sent. With 1,000 of them, a worker stays below 150 MiB."""

_ADDRESS_BYTES: Final = 512 * _MEBIBYTE
_THREAD_ADDRESS_BYTES: Final = 72 * _MEBIBYTE
"""A thread reserves a stack of 8 MiB, and the C library 64 MiB for what it allocates; hardly anything of it is used."""

_STATE_BYTES: Final = 64 * _MEBIBYTE
"""State files are replaced one after another. This is many times what those of 2,000 keys need."""

_KMS_REQUESTS_PER_SECOND: Final = 1800
"""What KMS sends to one key store at most."""

_AUDIT_LINE_BYTES: Final = 1024
_AUDIT_SECONDS: Final = 3600
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUPS: Final = Path("/proc/self/cgroup")


def resource_findings(config: Config) -> Iterator[Finding]:
    """Warnings about limits below what the configuration may use, each with the number that would do."""
    yield from open_files_findings(config.server.max_connections)
    yield from _memory_findings(config)
    yield from _address_findings(config)
    yield from _disk_findings(config)


def open_files_findings(maximum_connections: int) -> Iterator[Finding]:
    """A limit of open files that is reached before ``server.max_connections``."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = maximum_connections + FILES_BESIDE_CONNECTIONS
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield Finding.warning(
            f"server.max_connections: {maximum_connections} connections need {needed} open files, and this process may"
            f" have {limit}; raise the limit to {needed} (ulimit -n, or LimitNOFILE= in the systemd unit)"
        )


def _memory_findings(config: Config) -> Iterator[Finding]:
    server = config.server
    needed = _MASTER_BYTES + server.workers * (_WORKER_BYTES + server.max_connections * _CONNECTION_BYTES)
    limit = min(_memory_limits(), default=needed)
    if limit < needed:
        yield Finding.warning(
            f"server.workers: {server.workers} workers with {server.max_connections} connections each may use"
            f" {_mebibytes(needed)} of memory, and the limit of the control group is {_mebibytes(limit)}; raise it to"
            f" {_mebibytes(needed)}, or lower workers or max_connections"
        )


def _address_findings(config: Config) -> Iterator[Finding]:
    sessions = sum(hsm.sessions for hsm in config.hsm)
    needed = _ADDRESS_BYTES + (THREADS_BESIDE_SESSIONS + sessions) * _THREAD_ADDRESS_BYTES
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield Finding.warning(
            f"hsm: a worker with so many sessions may reserve {_mebibytes(needed)} of address space, and this process"
            f" may have {_mebibytes(limit)}; remove the limit (ulimit -v), and limit the memory by MemoryMax= in the"
            " systemd unit"
        )


def _memory_limits() -> Iterator[int]:
    """The memory limits of the control groups of this process, those above them included, in bytes."""
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # version 2, and the controller of version 1
            root = _CGROUPS / controllers
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            group = root / path.lstrip("/")
            for directory in (group, *group.parents):
                if directory == _CGROUPS.parent:
                    break
                try:
                    yield int((directory / name).read_text())
                except (OSError, ValueError):  # without a limit it says "max"; the root has no such file
                    continue


def _disk_findings(config: Config) -> Iterator[Finding]:
    yield from _room("state.directory", Path(config.state.directory), _STATE_BYTES, "the state may need")
    if config.audit.enabled and config.audit.file is not None:
        rate = sum(store.requests_per_second or _KMS_REQUESTS_PER_SECOND for store in config.keystore)
        needed = int(rate * _AUDIT_SECONDS * _AUDIT_LINE_BYTES)
        what = "an hour of requests, as many as the quotas of the key stores or KMS allow, may need"
        yield from _room("audit.file", Path(config.audit.file).parent, needed, what)


def _room(at: str, directory: Path, needed: int, what: str) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # which another check reports
        return
    if free < needed:
        yield Finding.warning(
            f"{at}: {what} {_mebibytes(needed)}, and {directory} has {_mebibytes(free)} free; make room for"
            f" {_mebibytes(needed)}"
        )


def _mebibytes(count: int) -> str:
    return f"{-(-count // _MEBIBYTE)} MiB"
