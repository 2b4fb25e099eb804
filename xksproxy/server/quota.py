"""The quota of a key store: requests per second, for all workers of a machine together (R-URI-10)."""

import mmap
import os
import time
from hashlib import blake2b
from pathlib import Path
from typing import Final

from xksproxy.config import model
from xksproxy.config.errors import ConfigError
from xksproxy.hsm._native import claim_bucket, take_token

_BUCKETS: Final = 65_536
_BUCKET_BYTES: Final = 16
_SECOND: Final = 1_000_000_000
_FOREVER: Final = 2**61
"""In nanoseconds."""


class Quotas:
    """The buckets of all key stores, in one file that all workers map.

    Connections carry different numbers of requests. So a separate limit for each worker would throttle too early.
    """

    def __init__(self, path: Path) -> None:
        """The file is made when the first key store has a quota."""
        self._path = path
        self._map: mmap.mmap | None = None
        self._problem = ""

    def of(self, table: model.KeyStore) -> "Quota | None":
        """The quota of a key store; None if it has no quota.

        Raises:
            ConfigError: more than 65,536 names were used.
        """
        if table.requests_per_second is None:
            return None
        burst = table.requests_per_second if table.burst is None else table.burst
        return self.quota(table.name, table.requests_per_second, max(1.0, burst))

    def quota(self, name: str, rate: float, burst: float) -> "Quota":
        """The bucket with a name. ``rate`` is in requests per second, ``burst`` in requests.

        If the file cannot be made, each worker has its own buckets.

        Raises:
            ConfigError: more than 65,536 names were used.
        """
        buckets = self._map = self._map or self._mapped()
        number = claim_bucket(buckets, int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) or 1)
        if number < 0:
            raise ConfigError(
                [f"keystore: more than {_BUCKETS} names of key stores with requests_per_second were used"]
            )
        return Quota(buckets, number, rate, burst, self._problem)

    def _mapped(self) -> mmap.mmap:
        try:
            return self._shared()
        except OSError as error:
            self._problem = error.strerror or str(error)
            return mmap.mmap(-1, _BUCKETS * _BUCKET_BYTES)

    def _shared(self) -> mmap.mmap:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # On a full file system, access to a page without reserved space would kill the process.
            os.posix_fallocate(descriptor, 0, _BUCKETS * _BUCKET_BYTES)
            return mmap.mmap(descriptor, _BUCKETS * _BUCKET_BYTES)
        finally:
            os.close(descriptor)


class Quota:
    """A token bucket. It has no lock, so no process waits for another one."""

    def __init__(self, buckets: mmap.mmap, number: int, rate: float, burst: float, problem: str = "") -> None:
        self.problem = problem
        """Why other workers do not share the bucket; empty if they do."""
        self._buckets = buckets
        self._number = number
        self._interval = round(min(_SECOND / rate, _FOREVER))
        self._capacity = round(min(burst * _SECOND / rate, _FOREVER))

    def take(self) -> bool:
        """Take one request from the quota; False if none is left."""
        # CLOCK_MONOTONIC is one clock for all processes.
        return take_token(self._buckets, self._number, self._interval, self._capacity, time.monotonic_ns())
