"""Which workers of a machine follow a change, found through the state directory and the status that they publish."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from xksproxy.server import followers as module
from xksproxy.server.directory_identity import StateIdentity
from xksproxy.server.followers import (
    Following,
    Registration,
    holds,
    is_in_use,
    known_to_workers,
    proxies_of,
    proxy_table,
    refuses,
    register,
    wait_for_workers,
)
from xksproxy.server.worker_status import (
    Changing,
    InForce,
    RecordRevisions,
    StatusFile,
    WorkerStatus,
    forget,
    newest_revisions,
)
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.state_file import StateUnusable

_NO_SUCH_MASTER = 2**22 + 1
NOTHING = InForce()


def publish(directory: Path, pid: int, in_force: InForce = NOTHING) -> None:
    worker = WorkerStatus(pid, 1.0, 1.0, 0, ready=True, hsms=(), refusals=())
    records = RecordRevisions(in_force.state_directory, {"usage/key-a.json": pid})
    StatusFile(directory, pid).publish(worker, Changing(1, lambda: in_force), Changing(1, lambda: records))


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Path]:
    """The directory of a service that runs, and whose master cannot be seen."""
    made = tmp_path / "runtime"
    made.mkdir()
    descriptor = os.open(made, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    register(tmp_path, made, _NO_SUCH_MASTER)
    yield made
    os.close(descriptor)


def test_without_a_service_nobody_has_to_follow(tmp_path: Path) -> None:
    assert wait_for_workers(tmp_path, lambda _: False) == Following((), ())


def test_each_worker_follows_that_holds_the_revision_or_a_later_one_of_the_file(tmp_path: Path, runtime: Path) -> None:
    for pid, revision in ((11, 2), (12, 3), (13, 4), (15, 5)):
        publish(runtime, pid, InForce(revisions={"blocks-a.json": revision}))
    publish(runtime, 14)
    table, others = block_table(tmp_path, "a"), block_table(tmp_path, "a")
    for number in range(3):
        table.update(str(number), lambda _: Block(0, "incident"))
    follows = holds(table)
    others.update("another", lambda _: Block(0, "incident"))

    assert wait_for_workers(tmp_path, follows, 0) == Following((12, 13), (11, 14, 15))


def test_a_worker_follows_when_it_has_no_credential_of_that_name(tmp_path: Path, runtime: Path) -> None:
    publish(runtime, 11, InForce(credentials={"a": ("X", "Y"), "b": ()}))
    publish(runtime, 12, InForce(credentials={"a": ("Y",), "b": ("X",)}))
    publish(runtime, 13)

    assert wait_for_workers(tmp_path, refuses("a", "X"), 0) == Following((12,), (11, 13))


def test_a_service_that_has_ended_is_forgotten_and_not_waited_for(tmp_path: Path, runtime: Path) -> None:
    ended = tmp_path / "ended"
    ended.mkdir()
    publish(ended, 11)
    register(tmp_path, ended, _NO_SUCH_MASTER)

    assert wait_for_workers(tmp_path, lambda _: False, 0) == Following((), ())

    register(tmp_path, runtime, _NO_SUCH_MASTER)
    table = proxy_table(tmp_path)
    table.refresh()
    assert set(table.entries()) == {str(runtime)}


@pytest.mark.parametrize("damage", ["deleted", "torn", "a link", "older"])
def test_a_damaged_record_is_begun_anew_by_each_proxy_that_runs(tmp_path: Path, runtime: Path, damage: str) -> None:
    publish(runtime, 11)
    registration = Registration(tmp_path, runtime)
    registration.keep(_NO_SUCH_MASTER)
    path = proxy_table(tmp_path).path
    older = path.read_bytes()
    register(tmp_path, runtime, _NO_SUCH_MASTER + 1)
    path.unlink()
    match damage:
        case "torn":
            path.write_bytes(older[:20])
        case "a link":
            path.symlink_to("/etc/passwd")
        case "older":
            path.write_bytes(older)
            path.chmod(0o600)

    with pytest.raises(StateUnusable):
        wait_for_workers(tmp_path, lambda _: True, 0)
    registration.keep(_NO_SUCH_MASTER)

    assert wait_for_workers(tmp_path, lambda _: True, 0) == Following((11,), ())


def test_a_proxy_runs_while_its_master_does_though_its_runtime_directory_was_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as master:
        register(tmp_path, gone, master.pid)
        assert proxies_of(tmp_path) == {gone: master.pid}
        table = proxy_table(tmp_path)
        table.update(str(gone), lambda proxy: proxy and replace(proxy, started=proxy.started + 1))
        assert proxies_of(tmp_path) == {}  # another process has its number now
        register(tmp_path, gone, master.pid)
        assert master.stdin
        master.stdin.close()
        os.waitid(os.P_PID, master.pid, os.WEXITED | os.WNOWAIT)
        assert proxies_of(tmp_path) == {}  # it has ended, and is only not reaped
    assert proxies_of(tmp_path) == {}


def test_a_proxy_whose_record_was_lost_records_itself_again(tmp_path: Path, runtime: Path) -> None:
    registration = Registration(tmp_path, runtime)
    registration.keep(_NO_SUCH_MASTER)
    table = proxy_table(tmp_path)
    before = table.path.read_bytes()
    registration.keep(_NO_SUCH_MASTER)
    assert table.path.read_bytes() == before  # nothing was to be written
    table.update(str(runtime), lambda _: None)

    registration.keep(_NO_SUCH_MASTER)

    table.refresh()
    assert set(table.entries()) == {str(runtime)}


def test_a_copy_of_the_state_directory_does_not_wait_for_workers_of_the_original(tmp_path: Path) -> None:
    state, runtime, copy = (tmp_path / name for name in ("state", "runtime", "copy"))
    state.mkdir()
    runtime.mkdir()
    publish(runtime, 11)
    descriptor = os.open(runtime, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        register(state, runtime, _NO_SUCH_MASTER)
        shutil.copytree(state, copy)

        assert wait_for_workers(copy, lambda _: False, 0) == Following((), ())
        assert wait_for_workers(state, lambda _: False, 0) == Following((), (11,))

        shutil.rmtree(state)
        copy.rename(state)
        assert wait_for_workers(state, lambda _: False, 0) == Following((), (11,))
    finally:
        os.close(descriptor)


def test_the_revisions_that_workers_know_are_the_highest_of_all_and_leave_out_files_that_are_not_complete(
    tmp_path: Path,
) -> None:
    publish(tmp_path, 11, InForce("state", {"blocks-a.json": 6, "blocks-b.json": 1}, refused=("blocks-a.json",)))
    publish(tmp_path, 12, InForce("state", {"blocks-a.json": 7}))
    publish(tmp_path, 13, InForce("another", {"blocks-a.json": 8}))
    (tmp_path / "in-force-14.partial").write_bytes(b"")
    (tmp_path / "in-force-15").write_bytes(b"nonsense")

    assert newest_revisions(tmp_path, "state".__eq__) == {
        "blocks-a.json": 7,
        "blocks-b.json": 1,
        "usage/key-a.json": 12,
    }


def test_a_command_knows_what_the_workers_of_its_state_directory_know(tmp_path: Path, runtime: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    publish(runtime, 11, InForce(str(tmp_path / "link"), {"blocks-a.json": 6}))
    publish(runtime, 12, InForce(str(tmp_path.parent), {"blocks-a.json": 9}))

    assert known_to_workers(tmp_path, "blocks-a.json") == 6
    assert known_to_workers(tmp_path, "blocks-b.json") == 0


def test_a_worker_that_refuses_the_file_does_not_follow(tmp_path: Path, runtime: Path) -> None:
    table = block_table(tmp_path, "a")
    table.update("key", lambda _: Block(0, "incident"))
    publish(runtime, 11, InForce(revisions={"blocks-a.json": 1}, refused=("blocks-a.json",)))

    assert wait_for_workers(tmp_path, holds(table), 0) == Following((), (11,))


def test_nothing_of_a_worker_that_has_ended_stays_and_all_of_the_others(tmp_path: Path) -> None:
    for pid in (12, 123):
        publish(tmp_path, pid)
        for name in (f"worker-{pid}.status", f"in-force-{pid}", f"records-{pid}", f"metrics-{pid}.worker"):
            (tmp_path / f"{name}.partial").touch()

    forget(tmp_path, 12)

    assert {path.name for path in tmp_path.iterdir() if "123" not in path.name} == set()
    assert len(list(tmp_path.iterdir())) == 7


def test_a_file_in_place_of_the_runtime_directory_of_a_proxy_that_has_ended_is_no_proxy(
    tmp_path: Path, runtime: Path
) -> None:
    assert proxies_of(tmp_path) == {runtime: _NO_SUCH_MASTER}
    runtime.rmdir()
    runtime.write_text("")

    assert proxies_of(tmp_path) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory of another user")
def test_a_runtime_directory_that_another_user_made_is_no_proxy_and_nobody_learns_revisions_from_it(
    tmp_path: Path, runtime: Path
) -> None:
    publish(runtime, 11, InForce(str(tmp_path), {"blocks-a.json": 6}))
    assert known_to_workers(tmp_path, "blocks-a.json") == 6

    for path in (runtime / "in-force-11", runtime / "records-11", runtime):
        os.chown(path, 65533, 65533)

        assert newest_revisions(runtime, str(tmp_path).__eq__).get("blocks-a.json", 0) == 0
    assert proxies_of(tmp_path) == {}


def test_a_proxy_that_runs_and_is_not_on_record_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RECORDING_SECONDS", 0)
    register(tmp_path, tmp_path / "of an earlier run", _NO_SUCH_MASTER)
    assert not is_in_use(tmp_path)
    identity = StateIdentity(tmp_path)

    assert is_in_use(tmp_path)
    with pytest.raises(StateUnusable, match="not on record"):
        wait_for_workers(tmp_path, lambda _: True, 0)

    del identity
    assert not is_in_use(tmp_path)
    assert wait_for_workers(tmp_path, lambda _: True, 0) == Following((), ())
