"""The credentials of thousands of key stores are read when they change, not whenever one of them does."""

import os
from pathlib import Path

import pytest
from xksproxy_tools.development.certificates import create_authority, issue, write_private

from xksproxy.config import credentials
from xksproxy.config.credentials import save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, Tls
from xksproxy.config.secret import read_private_file
from xksproxy.server.accepted import UsableFiles
from xksproxy.sigv4.keyring import Credential, generate_credential


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two key stores."""
    for name, content in zip(
        ("server.pem", "server-key.pem"), issue(create_authority("files"), "localhost", hosts=()), strict=True
    ):
        write_private(tmp_path / name, content)
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir(0o700)
        save_credential(tmp_path / name, generate_credential())
        stores.append(
            KeyStore(
                name=name, uri_path_prefix=f"/{name}", hsms=(), credentials=str(tmp_path / name), keys=(Key(id="k"),)
            )
        )
    tls = Tls(certificate=str(tmp_path / "server.pem"), private_key=str(tmp_path / "server-key.pem"))
    return Config(server=Server(tls=tls), hsm=(Hsm(id="h", module="m", token="t"),), keystore=tuple(stores))


def _directories(config: Config) -> list[Path]:
    return [Path(store.credentials) for store in config.keystore]


def test_only_directories_that_have_changed_are_read_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _directories(config)
    before = UsableFiles.read(config)
    save_credential(a, generate_credential())
    read: list[Path] = []
    monkeypatch.setattr(
        credentials, "read_private_file", lambda path: read.append(path.parent) or read_private_file(path)
    )

    after = UsableFiles.read(config, before)

    assert set(read) == {a}
    assert after.credentials[str(b)] is before.credentials[str(b)]
    assert [len(files.credentials[str(a)].stored) for files in (before, after)] == [1, 2]


def test_a_credential_that_is_replaced_by_one_of_the_same_size_is_read(config: Config) -> None:
    a, _ = _directories(config)
    before = UsableFiles.read(config)
    (old,) = before.credentials[str(a)].stored
    times = old.path.stat()
    new = Credential(old.credential.access_key_id, generate_credential().secret_access_key)
    old.path.unlink()
    os.utime(save_credential(a, new), ns=(times.st_atime_ns, times.st_mtime_ns))

    after = UsableFiles.read(config, before)

    assert [stored.credential for stored in after.credentials[str(a)].stored] == [new]


def test_each_directory_that_cannot_be_used_is_named(config: Config) -> None:
    before = UsableFiles.read(config)
    for directory in _directories(config):
        for file in directory.iterdir():
            file.chmod(0o644)

    with pytest.raises(ConfigError) as refused:
        UsableFiles.read(config, before)

    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "keystore[0].credentials",
        "keystore[1].credentials",
    ]


def test_one_access_key_id_with_two_secrets_is_refused_although_one_directory_was_read_before(config: Config) -> None:
    """R-AUTH-5."""
    a, b = _directories(config)
    before = UsableFiles.read(config)
    (of_a,) = before.credentials[str(a)].stored
    save_credential(b, Credential(of_a.credential.access_key_id, generate_credential().secret_access_key))

    with pytest.raises(ConfigError, match="has another secret in the key store a"):
        UsableFiles.read(config, before)
