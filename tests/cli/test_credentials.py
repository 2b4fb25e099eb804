"""`xksproxy credentials` and `xksproxy kms-config`: their output, and the files with secrets."""

import errno
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.state.credential_uses import CredentialUses

_ENDPOINT = ("--endpoint", "https://xks.example.com")


@pytest.fixture
def config(environment: DevEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with one key store and one credential, named by XKSPROXY_CONFIG."""
    ignored = shutil.ignore_patterns("tokens", "log", "state", "*.partial", "*.toml", "other-credentials")
    shutil.copytree(environment.directory, tmp_path / "dev", ignore=ignored)
    text = environment.config.read_text().partition('\n[[keystore]]\nname = "other"')[0]
    path = tmp_path / "dev" / "xksproxy.toml"
    path.write_text(re.sub(r"(?m)^check_interval_s = .*\n", "", text) + "\n")
    save_credential(path.parent / "credentials", generate_credential())
    monkeypatch.setenv("XKSPROXY_CONFIG", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def _credentials(config: Path) -> dict[str, Credential]:
    return {item.access_key_id: item for item in load_credentials(config.parent / "credentials")}


def _use(config: Path, access_key_id: str) -> None:
    (config.parent / "state").mkdir(mode=0o700, exist_ok=True)
    uses = CredentialUses(config.parent / "state", "dev")
    uses.mark_used(access_key_id)
    uses.record.flush()


def _assert_no_secret(config: Path, *texts: str) -> None:
    secrets = [credential.secret_access_key for credential in _credentials(config).values()]
    assert secrets
    assert not [secret for secret in secrets for text in texts if secret in text]


def test_create_makes_a_private_file_and_prints_no_secret(run: Callable[..., Any], config: Path) -> None:
    (before,) = _credentials(config)

    (config.parent / "state").mkdir(mode=0o700, exist_ok=True)

    done = run("credentials", "create")

    assert (done.code, done.err) == (0, "")
    (made,) = set(_credentials(config)) - {before}
    path = config.parent / "credentials" / f"{made}.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert made in done.text
    assert str(path) in done.text
    _assert_no_secret(config, done.text)


def test_a_credential_that_cannot_be_completed_is_not_left_valid(
    run: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _credentials(config)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("xksproxy.cli.credentials.share_with_owner", fail)

    assert run("credentials", "create").code == 2
    assert _credentials(config) == before


def test_create_serves_a_key_store_that_has_no_credential_yet(run: Callable[..., Any], config: Path) -> None:
    shutil.rmtree(config.parent / "credentials")

    done = run("credentials", "create", "--json")

    assert done.code == 0
    assert list(_credentials(config)) == [json.loads(done.text)["access_key_id"]]
    assert (config.parent / "credentials").stat().st_mode & 0o777 == 0o700


def test_create_before_the_first_start_makes_no_state_directory(run: Callable[..., Any], config: Path) -> None:
    shutil.rmtree(config.parent / "state", ignore_errors=True)

    done = run("credentials", "create", "--json")

    assert done.code == 0
    assert "the audit log will have no line about this command" in done.err
    assert json.loads(done.text)["access_key_id"] in _credentials(config)
    assert not (config.parent / "state").exists()


def test_create_whose_event_cannot_be_recorded_says_so_and_fails(run: Callable[..., Any], config: Path) -> None:
    (config.parent / "state").mkdir(exist_ok=True)
    (config.parent / "state" / "audit").write_text("no directory")

    done = run("credentials", "create")

    assert done.code == 1
    assert "the change is made, but the audit log will have no line about it" in done.err
    assert len(_credentials(config)) == 2


def test_create_names_the_other_machines_of_the_fleet(run: Callable[..., Any], config: Path) -> None:
    config.write_text(config.read_text().replace("[server]\n", "[server]\nfleet_size = 3\n"))

    assert "copy the file, mode 0600, to the other 2 machines" in run("credentials", "create").text


def test_list_shows_age_and_use_and_no_secret(run: Callable[..., Any], config: Path) -> None:
    (old,) = _credentials(config)
    new = json.loads(run("credentials", "create", "--json").text)["access_key_id"]
    _use(config, new)

    table, facts = run("credentials", "list"), json.loads(run("credentials", "list", "--json").text)

    first, second = (line.split() for line in table.text.splitlines()[1:])
    assert (first[0], first[2], second[0]) == (old, "never", new)
    assert [row["access_key_id"] for row in facts] == [old, new]
    assert facts[0]["last_used"] is None
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts[1]["last_used"])
    assert {key for row in facts for key in row} == {"access_key_id", "created", "last_used", "file"}
    _assert_no_secret(config, table.text, json.dumps(facts))


def test_retire_refuses_and_then_obeys(run: Callable[..., Any], config: Path) -> None:
    (old,) = _credentials(config)
    assert run("credentials", "retire", old, "--force").code == 1
    new = json.loads(run("credentials", "create", "--json").text)["access_key_id"]
    _use(config, old)

    refused = run("credentials", "retire", old)
    unknown = run("credentials", "retire", "NOBODY")
    assert (refused.code, unknown.code) == (1, 1)
    assert "was used 0 minutes ago" in refused.err
    assert set(_credentials(config)) == {old, new}

    forced = run("credentials", "retire", old, "--force")

    assert (forced.code, forced.err) == (0, "")
    assert set(_credentials(config)) == {new}
    assert f"{old}.toml.retired" in forced.text


def test_retire_says_by_its_exit_code_that_the_machine_does_not_remember_it(
    run: Callable[..., Any], config: Path
) -> None:
    (old,) = _credentials(config)
    run("credentials", "create")
    (config.parent / "state").mkdir(mode=0o700)
    (config.parent / "state" / "retired-credentials.json").mkdir()

    done = run("credentials", "retire", old, "--force")

    assert done.code == 1
    assert "it is accepted again if its file comes back" in done.err
    assert old not in _credentials(config)


def test_an_unreadable_record_stops_with_exit_code_2(run: Callable[..., Any], config: Path) -> None:
    (old,) = _credentials(config)
    run("credentials", "create")
    (config.parent / "state").mkdir(exist_ok=True)
    (config.parent / "state" / "credentials-dev.json").write_text("nonsense")

    for arguments in (("list",), ("retire", old)):
        done = run("credentials", *arguments)
        assert done.code == 2
        assert "the state directory cannot be used" in done.err


def test_kms_config_gives_the_newest_credential_or_the_one_asked_for(run: Callable[..., Any], config: Path) -> None:
    (old,) = _credentials(config)
    new = json.loads(run("credentials", "create", "--json").text)["access_key_id"]
    os.utime(config.parent / "credentials" / f"{new}.toml", (0, 0))  # as a restored backup has it

    for arguments, expected in (((), new), (("--credential", old), old)):
        done = run("kms-config", *_ENDPOINT, *arguments)
        told = json.loads(done.text)
        assert told["XksProxyUriPath"] == "/dev/kms/xks/v1"
        assert told["XksProxyAuthenticationCredential"] == {
            "AccessKeyId": expected,
            "RawSecretAccessKey": _credentials(config)[expected].secret_access_key,
        }


def test_the_console_file_is_that_of_xksproxy_dev(run: Callable[..., Any], config: Path) -> None:
    made = json.loads((config.parent / "kms-console.json").read_text())
    access_key_id = made["XksProxyAuthenticationCredential"]["AccessKeyId"]
    shutil.rmtree(config.parent / "credentials")
    (config.parent / "credentials").mkdir()
    save_credential(
        config.parent / "credentials",
        Credential(access_key_id, made["XksProxyAuthenticationCredential"]["RawSecretAccessKey"]),
    )

    assert json.loads(run("kms-config", *_ENDPOINT).text) == made


@pytest.mark.parametrize(
    ("form", "secret_at"),
    [
        ("json", ("XksProxyAuthenticationCredential", "RawSecretAccessKey")),
        ("aws-cli", ("RawSecretAccessKey",)),
        ("terraform", ("xks_proxy_credential", "raw_secret_access_key")),
    ],
)
def test_with_out_the_secret_goes_into_a_private_file_alone(
    run: Callable[..., Any], config: Path, tmp_path: Path, form: str, secret_at: tuple[str, ...]
) -> None:
    (credential,) = _credentials(config).values()
    name = "xks.tfvars.json"

    done = run("kms-config", *_ENDPOINT, "--as", form, "--out", name)

    assert done.code == 0
    _assert_no_secret(config, done.text, done.err)
    value = json.loads((tmp_path / name).read_text())
    for key in secret_at:
        value = value[key]
    assert value == credential.secret_access_key
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600

    again = run("kms-config", *_ENDPOINT, "--as", form, "--out", name)
    assert again.code == 2
    assert f"{tmp_path / name}: the file exists" in again.err


def test_a_certificate_for_another_name_is_a_warning(run: Callable[..., Any], config: Path) -> None:
    done = run("kms-config", *_ENDPOINT)

    assert done.code == 0
    assert "warning: the server certificate is for localhost, but KMS expects the name xks.example.com" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--endpoint", "https://192.0.2.1"),
        ("--endpoint", "https://xks.example.com:8443"),
        (*_ENDPOINT, "--vpc-endpoint-service-name", "vpce-svc-1"),
        (*_ENDPOINT, "--credential", "NOBODY"),
        (*_ENDPOINT, "--update", "cks-1"),
        (*_ENDPOINT, "--as", "aws-cli"),
        ("--as", "aws-cli", "--out", "credential.json"),
        ("--as", "terraform"),
        (*_ENDPOINT, "--as", "terraform", "--out", "xks.tfvars"),
    ],
    ids=" ".join,
)
def test_what_kms_would_not_take_is_refused(
    run: Callable[..., Any], config: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    before = set(tmp_path.iterdir())

    done = run("kms-config", *arguments)

    assert (done.code, done.out) == (2, b"")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("show", [False, True])
def test_a_terminal_is_shown_the_secret_only_when_asked(config: Path, show: bool) -> None:
    (credential,) = _credentials(config).values()
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "xksproxy", "kms-config", *_ENDPOINT, *(["--show-secret"] if show else [])]

    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)

    shown = b""
    try:
        while chunk := os.read(reader, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    assert done.returncode == (0 if show else 2)
    assert (credential.secret_access_key in shown.decode()) is show
    assert ("--show-secret" in done.stderr) is not show
    assert credential.secret_access_key not in done.stderr
