"""Events that wait for a worker which writes them to the audit log."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xksproxy.state import audit_spool
from xksproxy.state.audit_spool import AuditEntry, AuditSpool, actor, leave_event
from xksproxy.state.state_file import StateUnusable

ASK = """
import sys; from pathlib import Path; from xksproxy.state.audit_spool import AuditSpool
print(AuditSpool(Path(sys.argv[1])).become_writer())
"""


def another_becomes_writer(directory: Path) -> bool:
    return subprocess.check_output([sys.executable, "-c", ASK, directory], text=True) == "True\n"


def test_events_are_read_in_their_order_until_they_are_removed(tmp_path: Path) -> None:
    spool = AuditSpool(tmp_path)
    before = time.time()
    for number in range(3):
        spool.put(f"event {number}", {"number": number})

    entries = AuditSpool(tmp_path).entries()
    assert [(entry.message, entry.fields) for entry in entries.values() if entry] == [
        (f"event {number}", {"number": number}) for number in range(3)
    ]
    assert all(before <= entry.at <= time.time() for entry in entries.values() if entry)
    first, *rest = entries
    spool.remove([first])
    assert list(spool.entries()) == rest
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "audit").iterdir()} == {0o600}
    spool.remove([first, *rest])  # one that is gone keeps no other
    assert list(spool.entries()) == []


def test_one_process_at_a_time_writes(tmp_path: Path) -> None:
    spool = AuditSpool(tmp_path)

    assert spool.become_writer()
    assert spool.become_writer()
    assert not another_becomes_writer(tmp_path)
    assert spool._lock is not None
    os.close(spool._lock)
    assert another_becomes_writer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"at": "x"}', b"\xff"])
def test_an_event_that_cannot_be_read_is_there_and_hides_no_other(tmp_path: Path, content: bytes) -> None:
    spool = AuditSpool(tmp_path)
    spool.put("event", {})
    (tmp_path / "audit" / "00000000000000000000-damaged.json").write_bytes(content)
    (tmp_path / "audit" / ".hidden.json.0.partial").write_bytes(content)

    damaged, whole = spool.entries().values()
    assert damaged is None
    assert whole is not None
    assert whole.message == "event"


def test_planted_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    state = tmp_path / "state"
    state.mkdir()
    (state / "audit").symlink_to(elsewhere)

    with pytest.raises(StateUnusable, match="audit is a symbolic link, which is not followed; remove it"):
        AuditSpool(state).put("event", {})
    assert list(elsewhere.iterdir()) == []

    (state / "audit").unlink()
    (state / "audit").mkdir(0o700)
    (elsewhere / "secret").write_text('{"at": 1, "message": "m", "fields": {}}')
    (state / "audit" / "0-a.json").symlink_to(elsewhere / "secret")
    assert AuditSpool(state).entries() == {"0-a.json": None}


def test_a_lock_that_the_file_system_refuses_is_a_problem_and_not_another_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(StateUnusable, match=r"writer\.lock: No locks available"):
        AuditSpool(tmp_path).become_writer()


def test_so_many_events_wait_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_spool, "_MOST_ENTRIES", 2)
    spool = AuditSpool(tmp_path)
    for _ in range(2):
        spool.put("event", {})

    with pytest.raises(StateUnusable, match="2 events wait"):
        spool.put("event", {})


def test_an_event_that_cannot_be_left_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "audit").write_text("no directory")

    leave_event(tmp_path, "log-in refused", {"hsm": "h"})

    (record,) = caplog.records
    assert record.getMessage() == "event not in the audit log"
    assert record.fields["event"] == "log-in refused"  # type: ignore[attr-defined]
    assert record.fields["hsm"] == "h"  # type: ignore[attr-defined]


def test_the_actor_has_machine_process_and_user_and_the_claimed_user_of_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert actor().keys() == {"machine", "process", "user"}
    assert actor()["process"] == os.getpid()

    monkeypatch.setenv("SUDO_USER", "somebody")
    assert (actor("root")["user"], actor("root")["claimed_sudo_user"]) == ("root", "somebody")


def test_an_entry_is_what_it_was(tmp_path: Path) -> None:
    spool = AuditSpool(tmp_path)
    spool.put("event", {"before": None, "after": {"primary": 2}, "text": "\u202e\n"})

    (entry,) = spool.entries().values()
    assert isinstance(entry, AuditEntry)
    assert entry.fields == {"before": None, "after": {"primary": 2}, "text": "\u202e\n"}
