"""Requests per second of a key store, over all workers of a machine together (R-URI-10)."""

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Final, Self

from xksproxy.config import model

_BUCKET: Final = struct.Struct("dd")
_TRIES: Final = 200


class Quota:
    """A token bucket in a file that all workers map. A worker holds the lock of the file for microseconds.

    Connections spread unevenly over workers, so a share for each worker would throttle below the limit.
    """

    def __init__(self, path: Path, rate: float, burst: float) -> None:
        """``rate`` is in requests per second, ``burst`` in requests.

        If there is no room for the file, this worker has a bucket of its own.
        """
        self._rate = rate
        self._burst = burst
        self.problem = ""
        """Why the bucket is not shared; empty if it is."""
        try:
            self._descriptor = _open_bucket(path)
        except OSError as error:
            self.problem = error.strerror or str(error)
            self._descriptor = os.memfd_create(path.name, os.MFD_CLOEXEC)
            os.ftruncate(self._descriptor, _BUCKET.size)
        self._map = mmap.mmap(self._descriptor, _BUCKET.size)

    def __del__(self) -> None:
        """Close the descriptor; other snapshots and workers use the file too."""
        os.close(self._descriptor)

    @classmethod
    def of(cls, table: model.KeyStore, directory: Path) -> Self | None:
        """The quota of a key store; None where it has none."""
        if table.requests_per_second is None:
            return None
        burst = table.requests_per_second if table.burst is None else table.burst
        return cls(directory / f"quota-{table.name}", table.requests_per_second, max(1.0, burst))

    def take(self) -> bool:
        """Take one request from the quota; False if none is left."""
        if not self._lock():
            return False
        try:
            tokens, filled_at = _BUCKET.unpack_from(self._map)
            now = time.monotonic()  # CLOCK_MONOTONIC is one clock for all processes
            # A new file is all zeros, and so a full bucket.
            tokens = self._burst if filled_at == 0.0 else min(self._burst, tokens + (now - filled_at) * self._rate)
            passes = tokens >= 1.0
            _BUCKET.pack_into(self._map, 0, tokens - 1.0 if passes else tokens, now)
            return passes
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Take the lock, but do not wait for a worker that was stopped while it held the lock."""
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.sched_yield()
            else:
                return True
        return False


def _open_bucket(path: Path) -> int:
    """Open the file of a bucket, and take its space: a page without space would kill the process by SIGBUS.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _BUCKET.size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
