"""With ``[audit] sync``, who waits for a line learns whether it is on disk."""

import asyncio
import errno
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import PATIENCE_SECONDS, eventually

from xksproxy.config.model import Audit
from xksproxy.telemetry.audit import AuditLog


class Disk:
    """Syncs when it is told to, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()
        self.failures = 0.0
        self.waits = threading.Event()
        self.syncs = 0
        self.sizes: list[int] = []

    def sync(self, descriptor: int) -> None:
        """Take the place of os.fdatasync."""
        self.sizes.append(os.fstat(descriptor).st_size)
        self.waits.set()
        assert self.ready.wait(PATIENCE_SECONDS)
        if self.failures > 0:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.syncs += 1


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk()
    monkeypatch.setattr(os, "fdatasync", made.sync)
    monkeypatch.setattr("xksproxy.telemetry.audit_sink._AGAIN_SECONDS", 0.05)
    return made


@pytest.fixture
def audit(tmp_path: Path, disk: Disk) -> Iterator[AuditLog]:
    made = AuditLog(Audit(file=str(tmp_path / "log"), when_full="refuse", sync=True), None)
    yield made
    disk.failures = 0
    disk.ready.set()
    made.close()


def line(audit: AuditLog, seconds: float = PATIENCE_SECONDS) -> asyncio.Task[bool]:
    """One line that is waited for."""
    return asyncio.create_task(audit.write_to_disk("request", dict, seconds))


async def test_a_line_is_waited_for_until_it_is_synced(audit: AuditLog, disk: Disk, tmp_path: Path) -> None:
    disk.ready.clear()
    task = line(audit)
    await asyncio.to_thread(disk.waits.wait, PATIENCE_SECONDS)
    await asyncio.sleep(0.05)
    assert not task.done()
    assert disk.sizes == [(tmp_path / "log").stat().st_size]

    disk.ready.set()

    assert await task
    assert b'"message":"request"' in (tmp_path / "log").read_bytes()


async def test_lines_that_come_during_a_sync_share_the_next_one(audit: AuditLog, disk: Disk) -> None:
    disk.ready.clear()
    first = line(audit)
    await asyncio.to_thread(disk.waits.wait, PATIENCE_SECONDS)
    others = [line(audit) for _ in range(50)]
    await asyncio.sleep(0.05)
    assert not first.done()
    disk.ready.set()

    assert all(await asyncio.gather(first, *others))
    assert disk.syncs == 2


async def test_a_line_whose_sync_fails_is_not_on_disk_although_the_next_sync_succeeds(
    audit: AuditLog, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    assert await line(audit)
    disk.failures = math.inf
    failed = line(audit)
    assert "Input/output error" in await asyncio.to_thread(eventually, lambda: audit.problem)
    assert audit.refuses
    disk.failures = 0

    assert not await failed
    assert await line(audit)
    assert not audit.refuses
    assert [record.message for record in caplog.records] == ["audit log cannot be synced"]


async def test_a_line_that_is_not_on_disk_in_time_counts_as_unwritten(audit: AuditLog, disk: Disk) -> None:
    disk.ready.clear()

    assert not await line(audit, 0.02)


async def test_nothing_is_known_to_be_written_before_the_first_sync(audit: AuditLog, disk: Disk) -> None:
    disk.ready.clear()
    task = line(audit)
    await asyncio.to_thread(disk.waits.wait, PATIENCE_SECONDS)
    assert audit.refuses

    disk.ready.set()

    assert await task
    await asyncio.to_thread(eventually, lambda: not audit.refuses)


async def test_a_line_that_is_dropped_counts_as_unwritten(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xksproxy.telemetry.audit._MAXIMUM_WAITING_LINES", 3)
    audit = AuditLog(Audit(file=str(tmp_path / "small"), when_full="refuse", sync=True), None)
    disk.ready.clear()
    tasks = [line(audit) for _ in range(6)]
    await asyncio.sleep(0.05)
    disk.ready.set()

    assert await asyncio.gather(*tasks) == [True] * 3 + [False] * 3
    audit.close()


async def test_a_line_that_cannot_be_made_counts_as_unwritten(audit: AuditLog) -> None:
    def fail() -> dict[str, object]:
        raise ValueError

    broken = asyncio.create_task(audit.write_to_disk("request", fail, PATIENCE_SECONDS))

    assert not await broken
    assert await line(audit)


async def test_no_other_thread_takes_the_error_of_a_sync(audit: AuditLog, disk: Disk) -> None:
    disk.ready.clear()
    task = line(audit)
    await asyncio.to_thread(disk.waits.wait, PATIENCE_SECONDS)
    other = asyncio.create_task(asyncio.to_thread(audit.sync))
    await asyncio.wait((other,), timeout=PATIENCE_SECONDS)
    assert len(disk.sizes) == 1
    disk.ready.set()

    assert await task


async def test_a_renamed_file_is_synced_before_the_line_counts_as_on_disk(
    audit: AuditLog, disk: Disk, tmp_path: Path
) -> None:
    """Where the sync of the old file fails, lines of the same write may be in it."""
    assert await line(audit)
    (tmp_path / "log").rename(tmp_path / "log.1")
    disk.failures = 1

    assert not await line(audit)
    assert await line(audit)


async def test_the_directory_of_a_new_file_is_synced(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr("xksproxy.telemetry.audit_sink.sync_directory", synced.append)
    audit = AuditLog(Audit(file=str(tmp_path / "new"), when_full="refuse", sync=True), None)

    assert await line(audit)
    assert synced == [tmp_path]
    audit.close()
