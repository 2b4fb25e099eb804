"""What counts as a change of the watched files, and when it is told."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, Tls
from xksproxy.config.secret import SecretReference
from xksproxy.server.watch import FileWatch
from xksproxy.state.directory_changes import DirectoryChanges


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("server.pem", "server-key.pem", "ca.pem", "pin"):
        (tmp_path / name).write_text("old")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "one.toml").write_text("old")
    return tmp_path


@pytest.fixture
def watch(home: Path) -> FileWatch:
    tls = Tls(
        certificate=str(home / "server.pem"),
        private_key=str(home / "server-key.pem"),
        client_ca=str(home / "ca.pem"),
        client_names=("kms",),
    )
    store = KeyStore(
        name="s", uri_path_prefix="", hsms=("h",), credentials=str(home / "credentials"), keys=(Key(id="k"),)
    )
    hsm = Hsm(id="h", module="m", token="t", pin=SecretReference(file=str(home / "pin")))
    return FileWatch(Config(server=Server(tls=tls), hsm=(hsm,), keystore=(store,)))


def _replace(path: Path) -> None:
    """As ACME clients do it: the same size, and even the same time."""
    status = path.stat()
    new = path.with_name("new")
    new.write_text("new")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.rename(path)


_CHANGES: dict[str, Callable[[Path], object]] = {
    "certificate replaced": lambda home: _replace(home / "server.pem"),
    "key replaced": lambda home: _replace(home / "server-key.pem"),
    "PIN replaced": lambda home: _replace(home / "pin"),
    "client CA replaced": lambda home: _replace(home / "ca.pem"),
    "certificate gone": lambda home: (home / "server.pem").unlink(),
    "credential added": lambda home: (home / "credentials" / "two.toml").write_text("new"),
    "credential renamed": lambda home: (home / "credentials" / "one.toml").rename(home / "credentials" / "two.toml"),
    "credential retired": lambda home: (home / "credentials" / "one.toml").rename(home / "credentials" / "one.retired"),
    "credential written in place": lambda home: (home / "credentials" / "one.toml").write_text("newer"),
    "mode changed": lambda home: (home / "credentials" / "one.toml").chmod(0o400),
    "directory gone": lambda home: (home / "credentials").rename(home / "elsewhere"),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES)
def test_a_change_is_reported_once_when_the_file_is_stable(
    home: Path, watch: FileWatch, change: Callable[[Path], object]
) -> None:
    assert [watch.changed() for _ in range(3)] == [False] * 3

    change(home)

    assert [watch.changed() for _ in range(4)] == [False, True, False, False]


def test_a_file_that_keeps_changing_is_not_reported_yet(home: Path, watch: FileWatch) -> None:
    for size in range(1, 6):
        (home / "server.pem").write_text("x" * size)
        assert not watch.changed()

    assert [watch.changed(), watch.changed()] == [True, False]


def test_a_change_that_is_not_reported_is_found_in_turn_when_it_is_stable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectoryChanges, "take", lambda _: set())
    stores = []
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "one.toml").write_text("old")
        keys = (Key(id="k"),)
        stores.append(
            KeyStore(
                name=f"s{number}", uri_path_prefix="", hsms=("h",), credentials=str(tmp_path / str(number)), keys=keys
            )
        )
    watch = FileWatch(Config(server=Server(tls=Tls(certificate="", private_key="")), hsm=(), keystore=tuple(stores)))
    changing = tmp_path / "17" / "one.toml"

    for size in range(1, 20):
        changing.write_text("x" * size)
        assert not watch.changed()

    # Four directories each time, and once more when it is known to be stable.
    assert [watch.changed() for _ in range(12)].count(True) == 1


def test_a_link_that_leads_elsewhere_is_a_change(home: Path, watch: FileWatch) -> None:
    (home / "server.pem").unlink()
    (home / "server.pem").symlink_to("ca.pem")
    assert [watch.changed(), watch.changed()] == [False, True]
    (home / "other.pem").write_text("new")
    (home / "server.pem").unlink()
    (home / "server.pem").symlink_to("other.pem")

    assert [watch.changed(), watch.changed()] == [False, True]


def test_other_files_of_the_directory_are_no_change(home: Path, watch: FileWatch) -> None:
    (home / "credentials" / ".two.partial").write_text("new")
    (home / "credentials" / "README").write_text("new")

    assert not any(watch.changed() for _ in range(3))
