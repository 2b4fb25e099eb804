"""Audit lines are made on the writing thread, with the time at which they were queued."""

import errno
import json
import os
import re
import resource
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import eventually, remains

from xksproxy.config.model import Audit
from xksproxy.config.secret import Secret
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.audit_sink import AuditSink
from xksproxy.telemetry.chain import verify_lines


def lines_of(path: Path, audit: AuditLog) -> list[dict[str, Any]]:
    """Close a log and return all its lines."""
    audit.close()
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _drain(reader: int) -> None:
    with suppress(BlockingIOError):
        os.read(reader, 1_000_000)


def test_a_line_has_time_message_and_process_and_then_its_fields_in_order(tmp_path: Path) -> None:
    audit = AuditLog(Audit(file=str(tmp_path / "log")), None)
    audit.write("request", lambda: {"peer": "127.0.0.1", "a": [1], "status": 200})
    audit.close()

    own = rf'"time":"[0-9-]{{10}}T[0-9:]{{8}}\.[0-9]{{3}}\+00:00","message":"request","pid":{os.getpid()}'
    line = (tmp_path / "log").read_text()
    assert re.fullmatch(rf'\{{{own},"peer":"127\.0\.0\.1","a":\[1\],"status":200\}}\n', line)


def test_what_was_written_is_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "log"
    audit = AuditLog(Audit(file=str(path)), None)
    audit.sync()
    assert synced == []
    audit.write("first", dict)
    eventually(lambda: audit.written, 1)

    audit.sync()
    audit.sync()
    assert synced == [path.stat().st_ino]

    audit.write("second", dict)
    audit.close()
    assert synced == [path.stat().st_ino] * 2


def test_a_file_is_synced_before_another_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    path = tmp_path / "log"
    audit = AuditLog(Audit(file=str(path)), None)
    audit.write("first", dict)
    eventually(lambda: audit.written, 1)
    before = path.stat().st_ino
    path.rename(tmp_path / "log.1")
    audit.write("second", dict)
    eventually(lambda: audit.written, 2)

    assert synced == [before]
    audit.close()


@pytest.mark.parametrize(("reason", "lines"), [(errno.EIO, 1), (errno.EINVAL, 0)])
def test_a_sync_that_fails_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, reason: int, lines: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(reason, os.strerror(reason))

    audit = AuditLog(Audit(file=str(tmp_path / "log")), None)
    monkeypatch.setattr(os, "fdatasync", fail)
    for number in (1, 2):
        audit.write("request", dict)
        eventually(lambda: audit.written, number)
        audit.sync()

    assert [record.message for record in caplog.records] == ["audit log cannot be synced"] * lines
    audit.close()


def test_the_time_of_a_line_is_when_it_was_queued(tmp_path: Path) -> None:
    audit = AuditLog(Audit(file=str(tmp_path / "log")), None)
    entered, released = threading.Event(), threading.Event()

    def slow() -> Mapping[str, Any]:
        entered.set()
        released.wait(60)
        return {}

    audit.write("first", slow)
    entered.wait(60)
    before = time.time()
    audit.write("second", dict)
    after = time.time()
    time.sleep(0.05)
    released.set()

    second = lines_of(tmp_path / "log", audit)[1]
    at = datetime.fromisoformat(second["time"]).timestamp()
    assert before - 0.001 <= at <= after


def test_a_line_is_made_on_the_writing_thread(tmp_path: Path) -> None:
    audit = AuditLog(Audit(file=str(tmp_path / "log")), None)
    audit.write("request", lambda: {"thread": threading.get_ident()})

    [line] = lines_of(tmp_path / "log", audit)
    assert line["thread"] != threading.get_ident()


def test_a_disabled_log_does_not_compute_fields(tmp_path: Path) -> None:
    audit = AuditLog(Audit(enabled=False, file=str(tmp_path / "log")), None)
    asked = list[int]()
    audit.write("request", lambda: {"asked": asked.append(1)})
    audit.close()

    assert not asked
    assert not (tmp_path / "log").exists()


def test_a_chain_ends_with_a_checkpoint_marked_as_the_end(tmp_path: Path) -> None:
    audit = AuditLog(Audit(file=str(tmp_path / "log"), checkpoint_interval_s=0), Secret("k" * 43))
    audit.write("request", lambda: {"status": 200})
    audit.checkpoint_if_due()

    request, checkpoint, end = lines_of(tmp_path / "log", audit)
    assert (request["message"], request["status"], request["number"]) == ("request", 200, 0)
    assert (checkpoint["message"], "end" in checkpoint) == ("checkpoint", False)
    assert (end["message"], end["end"]) == ("checkpoint", True)


def test_a_new_file_has_mode_0640_whatever_the_umask_is_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "old").touch(0o600)
    umask = os.umask(0o077)
    try:
        for name in ("new", "old"):
            audit = AuditLog(Audit(file=str(tmp_path / name)), None)
            audit.write("request", dict)
            audit.close()
    finally:
        os.umask(umask)

    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("new", "old")] == [0o640, 0o600]


def test_the_service_has_to_stop_only_while_lines_have_waited_for_so_long(tmp_path: Path) -> None:
    log = tmp_path / "directory" / "log"
    audit = AuditLog(Audit(file=str(log), stop_after_s=1), None)
    audit.write("request", dict)

    assert "No such file or directory" in eventually(lambda: audit.stop_reason)
    log.parent.mkdir()
    eventually(lambda: (audit.stop_reason, audit.problem), ("", ""))
    assert remains(lambda: not audit.stop_reason, 1.5)  # while no line waits
    audit.close()


def test_without_stop_after_s_it_never_has_to_stop(tmp_path: Path) -> None:
    log = tmp_path / "directory" / "log"
    audit = AuditLog(Audit(file=str(log)), None)
    audit.write("request", dict)
    eventually(lambda: audit.problem)

    assert remains(lambda: not audit.stop_reason, 1.5)
    log.parent.mkdir()
    audit.close()


def test_a_reader_that_has_stopped_reading_is_a_problem_before_the_queue_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    monkeypatch.setattr("xksproxy.telemetry.audit_sink._STANDARD_OUTPUT", writer)
    audit = AuditLog(Audit(stop_after_s=1, when_full="refuse"), None)
    audit.write("first", dict)
    eventually(lambda: audit.works)
    for _ in range(20):
        audit.write("request", lambda: {"text": "x" * 10_000})  # 200 kB; a pipe holds 64 KiB

    assert "nothing was accepted" in eventually(lambda: audit.problem)
    assert not audit.full
    assert audit.refuses
    assert audit.stop_reason

    def read_all() -> tuple[str, str]:
        _drain(reader)
        return audit.problem, audit.stop_reason

    eventually(read_all, ("", ""))
    audit.close()
    os.close(reader)
    os.close(writer)


def test_after_a_full_disk_each_line_is_whole_and_its_beginning_is_no_change(tmp_path: Path) -> None:
    path, key = tmp_path / "log", Secret("k" * 64)
    path.touch()
    first, second = AuditLog(Audit(file=str(path), chain=True), key), AuditLog(Audit(file=str(path), chain=True), key)
    first.write("one", dict)
    second.write("one", dict)
    eventually(lambda: len(path.read_bytes().splitlines()), 2)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, limit[1]))
    try:
        first.write("two", dict)
        eventually(lambda: first.problem)
        second.write("two", dict)
        eventually(lambda: second.problem)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    for audit in (first, second):
        audit.write("three", dict)
        eventually(lambda audit=audit: not audit.problem)
        audit.close()

    found = verify_lines(path.read_bytes().splitlines(keepends=True), key)

    assert found.problems == []
    assert len(found.incomplete) == 1
    assert [chain.lines for chain in found.chains.values()] == [4, 4]


def test_what_a_killed_process_left_of_a_line_is_ended_before_the_next_line(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"time":"2026')
    audit = AuditLog(Audit(file=str(tmp_path / "log")), None)
    audit.write("one", dict)
    audit.close()

    assert [len(line) > 13 for line in (tmp_path / "log").read_text().splitlines()] == [False, True]


def test_a_line_that_another_process_begins_and_ends_meanwhile_is_no_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.touch()
    before = os.fstat

    def another_writes(descriptor: int) -> os.stat_result:
        status = before(descriptor)
        if status.st_size == 0 and status.st_ino == path.stat().st_ino:
            path.write_text('{"another":1}\n')
        return status

    monkeypatch.setattr(os, "fstat", another_writes)
    AuditSink(path).write(b'{"own":1}\n')

    assert path.read_text() == '{"another":1}\n{"own":1}\n'


def test_batches_of_several_processes_do_not_cut_each_others_lines(tmp_path: Path) -> None:
    sink = AuditSink(tmp_path / "log")
    lengths: list[int] = []
    write = os.write

    def noted(descriptor: int, data: bytes) -> int:
        assert data.endswith(b"\n")
        lengths.append(len(data))
        return write(descriptor, data)

    data = b"".join(b"x" * length + b"\n" for length in (10, 65_000, 1_000, 70_000, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", noted)
        sink.write(data)

    assert (tmp_path / "log").read_bytes() == data
    assert len(lengths) > 2


def test_a_full_disk_under_standard_output_leaves_whole_lines_and_one_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, key = tmp_path / "log", Secret("k" * 64)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    monkeypatch.setattr("xksproxy.telemetry.audit_sink._STANDARD_OUTPUT", descriptor)
    audit = AuditLog(Audit(chain=True), key)
    write, room = os.write, 300

    def limited(to: int, data: bytes) -> int:
        nonlocal room
        if to != descriptor:
            return write(to, data)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(to, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    for name in ("one", "two", "three"):
        audit.write(name, dict)
    eventually(lambda: audit.problem)
    room = 10_000
    eventually(lambda: (audit.problem, audit.written), ("", 3))
    audit.close()
    os.close(descriptor)

    found = verify_lines(path.read_bytes().splitlines(keepends=True), key)

    assert found.problems == []
    assert len(found.incomplete) == 1
    assert [chain.lines for chain in found.chains.values()] == [4]


def test_lines_that_a_stopped_reader_does_not_take_are_reported_as_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("xksproxy.telemetry.audit_sink._STANDARD_OUTPUT", writer)
    audit = AuditLog(Audit(), None)
    for _ in range(20):
        audit.write("request", lambda: {"text": "x" * 10_000})  # 200 kB; a pipe holds 64 KiB

    audit.close()

    ((message, fields),) = [(record.message, record.__dict__["fields"]) for record in caplog.records]
    assert message == "audit lines lost"
    assert fields == {"count": 20 - audit.written, "reason": "too slow"}
    os.set_blocking(reader, False)
    eventually(lambda: (_drain(reader), audit.written)[1], 20)
    os.close(reader)
    os.close(writer)


def test_a_pipe_in_place_of_the_file_is_a_problem_even_if_it_has_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    audit = AuditLog(Audit(file=str(tmp_path / "pipe")), None)
    audit.write("first", dict)

    assert "is a named pipe" in eventually(lambda: audit.problem)
    audit.close()
    os.close(reader)
