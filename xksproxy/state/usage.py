"""How often each key has encrypted, and when it was last used: never less than the truth, whatever crashes."""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

from xksproxy.state.statefile import StateUnusable, locked, read, replace

_log: Final = logging.getLogger(__name__)
_LOCK_SECONDS: Final = 1.0
_GRANT_LOCK_SECONDS: Final = 0.1
"""An HSM session may be waiting for it."""

_FIRST_BLOCK: Final = 16
_GROWTH: Final = 4
_LARGEST_BLOCK: Final = 16_384
_SHORT_SECONDS: Final = 10.0
_PARTS_OF_THE_REST: Final = 8
_USE_SECONDS: Final = 60.0
_REFUSED_SECONDS: Final = 1.0


class LimitReached(Exception):
    """The key has made as many encryptions as it may."""


class KeyUsage(msgspec.Struct, frozen=True):
    """What is on record of the keys of one label on this machine. Times are seconds since 1970."""

    label: str
    encryptions: Annotated[int, msgspec.Meta(ge=0)] = 0
    """C_Encrypt calls allowed so far: those made, and those that a running process may still make."""

    last_encrypted: float | None = None
    last_decrypted: float | None = None


class _Lease:
    """Encryptions that this process may still make, taken ahead in blocks that grow with the traffic."""

    __slots__ = ("block", "closed", "filling", "left", "mutex", "refusal", "refused_at", "taken", "taken_at", "used_at")

    def __init__(self) -> None:
        self.left = 0
        self.taken = 0
        """All that this process has put on the count for it, so that the count can never be less."""
        self.closed = False
        """Given back; nothing more is taken ahead."""
        self.block = 0
        self.taken_at = 0.0
        self.used_at = 0.0
        self.refused_at = 0.0
        self.refusal: Exception | None = None
        """Why no block could be had the last time."""
        self.filling = False
        self.mutex = threading.Lock()
        """Held while a block is taken, so that two threads do not both take one."""


class UsageBook:
    """Counts by label, one file each, which the processes of a machine share. Safe to use from any thread.

    All keys of a label are counted as one, on whatever token they are: too many rather than too few.
    """

    def __init__(self, state_directory: Path) -> None:
        self._directory = state_directory / "usage"
        self._lock = threading.Lock()
        self._leases: dict[str, _Lease] = {}
        self._decrypted_at: dict[str, float] = {}

    def read(self, label: str) -> KeyUsage:
        """What is on record for a label.

        Raises:
            StateUnusable: the record cannot be read.
        """
        return _read(self._path(label), label)

    def everything(self) -> Iterator[KeyUsage]:
        """All that is on record, in no order.

        Raises:
            StateUnusable: a record cannot be read.
        """
        for path in self._directory.glob("key-*.json"):
            yield _read(path, "")

    def spend(self, label: str, maximum: int | None) -> None:
        """Count one encryption before it is made; it may wait for the disk.

        Raises:
            LimitReached: this would be more than ``maximum`` on this machine.
            StateUnusable: it cannot be counted.
        """
        if not self.spend_ahead(label, maximum):
            self._spend_from_new_block(label, self._leases.setdefault(label, _Lease()), maximum)

    def spend_ahead(self, label: str, maximum: int | None) -> bool:
        """Count one encryption before it is made, if that needs no wait for the disk; whether it is counted.

        The next block is taken on a thread of its own, well before need.
        """
        with self._lock:
            lease = self._leases.get(label) or self._leases.setdefault(label, _Lease())
            served = lease.left > 0
            if served:
                lease.left -= 1
            now = time.monotonic()
            fill = served and not lease.filling and self._wants_filling(lease, now)
            lease.filling = lease.filling or fill
        if fill:
            threading.Thread(target=self._fill, args=(label, lease, maximum), daemon=True).start()
        return served

    def decrypted(self, label: str) -> None:
        """Note a decryption that was asked for; on record within a moment, and anew every minute of use."""
        now = time.monotonic()
        if now - self._decrypted_at.get(label, -_USE_SECONDS) >= _USE_SECONDS:
            self._decrypted_at[label] = now
            threading.Thread(target=self._record_decryption, args=(label,), daemon=True).start()

    def give_back(self) -> None:
        """Take what was not spent off the count; call it once no encryption can follow."""
        with self._lock:
            leases, self._leases = self._leases, {}
        for label, lease in leases.items():
            with suppress(StateUnusable), lease.mutex:
                left, lease.left, lease.closed = lease.left, 0, True
                self._change(label, taken=lease.taken, less=left)

    @staticmethod
    def _wants_filling(lease: _Lease, now: float) -> bool:
        low = 2 * lease.left < lease.block and not _lately_refused(lease, now)
        return low or now - lease.used_at >= _USE_SECONDS

    def _fill(self, label: str, lease: _Lease, maximum: int | None) -> None:
        with suppress(StateUnusable, LimitReached), lease.mutex:
            if lease.closed:
                return
            if 2 * lease.left < lease.block:
                self._take_block(label, lease, maximum)
            else:
                lease.used_at = time.monotonic()
                self._change(label, taken=lease.taken, last_encrypted=time.time())
        lease.filling = False

    def _spend_from_new_block(self, label: str, lease: _Lease, maximum: int | None) -> None:
        with lease.mutex:
            while True:
                with self._lock:
                    if lease.left > 0:
                        lease.left -= 1
                        return
                if lease.refusal and _lately_refused(lease, time.monotonic()):
                    raise type(lease.refusal)(*lease.refusal.args)
                self._take_block(label, lease, maximum)

    def _take_block(self, label: str, lease: _Lease, maximum: int | None) -> None:
        now = time.monotonic()
        block = _next_block(lease, now)
        try:
            granted = self._grant(label, block, maximum, lease.taken)
        except (LimitReached, StateUnusable) as error:
            # From when it is known, which may be after a long wait for the lock: others must not wait as long in turn.
            if isinstance(error, StateUnusable) and str(error) != str(lease.refusal):
                _log.error("encryptions cannot be counted", extra={"fields": {"label": label, "reason": str(error)}})
            lease.refusal, lease.refused_at = error, time.monotonic()
            raise
        with self._lock:
            lease.left += granted
            lease.taken += granted
            lease.block, lease.taken_at, lease.used_at, lease.refusal = block, now, now, None

    def _grant(self, label: str, block: int, maximum: int | None, taken: int) -> int:
        """Put a block on the count; less of it as the maximum comes near, so that no process keeps much of the rest.

        ``taken``: what this process has put on it before.
        """
        path = self._path(label)
        with locked(path, _GRANT_LOCK_SECONDS):
            usage = _read(path, label, taken)
            if maximum is not None:
                rest = maximum - usage.encryptions
                if rest <= 0:
                    raise LimitReached(label)
                block = min(block, max(1, rest // _PARTS_OF_THE_REST))
            counted = msgspec.structs.replace(usage, encryptions=usage.encryptions + block, last_encrypted=time.time())
            replace(path, msgspec.json.encode(counted))
        if maximum is not None and not (taken and _beyond_half(usage, maximum)) and _beyond_half(counted, maximum):
            _log.warning(
                "key has made half of the encryptions it may",
                extra={"fields": {"label": label, "encryptions": counted.encryptions, "maximum": maximum}},
            )
        return block

    def _record_decryption(self, label: str) -> None:
        with suppress(StateUnusable):
            self._change(label, last_decrypted=time.time())

    def _change(self, label: str, *, taken: int = 0, less: int = 0, **times: float) -> None:
        path = self._path(label)
        with locked(path, _LOCK_SECONDS):
            usage = _read(path, label, taken)
            changed = msgspec.structs.replace(usage, encryptions=usage.encryptions - less, **times)
            replace(path, msgspec.json.encode(changed))

    def _path(self, label: str) -> Path:
        return self._directory / f"key-{_file_name(label)}.json"


def _beyond_half(usage: KeyUsage, maximum: int) -> bool:
    return 2 * usage.encryptions >= maximum


def _lately_refused(lease: _Lease, now: float) -> bool:
    return lease.refusal is not None and now - lease.refused_at < _REFUSED_SECONDS


def _next_block(lease: _Lease, now: float) -> int:
    """Larger blocks while one does not last 10 seconds, so that a busy key seldom waits for the disk."""
    if not lease.block:
        return _FIRST_BLOCK
    if now - lease.taken_at < _SHORT_SECONDS:
        return min(_LARGEST_BLOCK, lease.block * _GROWTH)
    return lease.block


def _read(path: Path, label: str, taken: int = 0) -> KeyUsage:
    """The record; one that counts less than was ``taken`` is refused, for it is not the one that was there before."""
    usage = read(path, KeyUsage) or KeyUsage(label)
    if usage.encryptions < taken:
        raise StateUnusable(f"{path}: it has vanished or was replaced, and the count with it")
    return usage


def _file_name(label: str) -> str:
    """The label where that makes a file name, and else a digest of it."""
    name = quote(label, safe="")
    longest = 150
    return name if len(name) <= longest else f"{name[:100]}-{hashlib.sha256(label.encode()).hexdigest()}"
