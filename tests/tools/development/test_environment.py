"""The directory of `xksproxy dev`: made whole or not at all, and kept."""

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from support import free_port
from xksproxy_tools.development import certificates
from xksproxy_tools.development.environment import DevEnvironment, open_environment
from xksproxy_tools.development.softhsm import SoftHsmError

from xksproxy.config.check import check_config, read_pin
from xksproxy.config.credentials import load_credentials
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config

# PKCS#11 can be initialised once a process, so an environment is made in one of its own, here under a careless umask.
# A shell that runs the tests in the background lets them ignore Ctrl-C.
_MAKE = """
import os, signal, sys
from pathlib import Path
from xksproxy_tools.development.environment import open_environment

signal.signal(signal.SIGINT, signal.default_int_handler)
os.umask(0)
open_environment(Path(sys.argv[1]), None, int(sys.argv[2]))
"""
_VARIABLES = {
    "XKS_PROXY_HOST",
    "URI_PREFIX",
    "SIGV4_ACCESS_KEY_ID",
    "SIGV4_SECRET_ACCESS_KEY",
    "REGION",
    "KEY_ID",
    "ENCRYPT_ONLY_KEY_ID",
    "DECRYPT_ONLY_KEY_ID",
    "IMPOTENT_KEY_ID",
    "SCHEME",
    "SECURE",
    "XKSPROXY_CONFIG",
}


def _command(directory: Path, port: int) -> list[str]:
    return [sys.executable, "-c", _MAKE, str(directory), str(port)]


def _make(directory: Path, port: int = 8443) -> DevEnvironment:
    subprocess.run(_command(directory, port), check=True)
    return DevEnvironment(directory, port)


def _sourced(client_env: Path) -> dict[str, str]:
    """What a shell exports after reading the file."""
    script = '. "$1"; exec env -0'
    environment = {"PATH": os.environ["PATH"]}
    command = ["/bin/sh", "-c", script, "sh", str(client_env)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    pairs = (entry.partition("=") for entry in done.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs if name not in ("PATH", "PWD", "SHLVL", "_", "OLDPWD")}


def _contents(directory: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path.relative_to(directory): (path.stat().st_mode, b"" if path.is_dir() else path.read_bytes())
        for path in directory.rglob("*")
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DevEnvironment:
    """An environment just as it was made; tests that change one take a copy."""
    return _make(tmp_path_factory.mktemp("devkit") / "dev", 18443)


@pytest.fixture
def copy(made: DevEnvironment, tmp_path: Path) -> DevEnvironment:
    """A copy to change. Its token still lies in the original, but nothing here touches that."""
    shutil.copytree(made.directory, tmp_path / "dev")
    return DevEnvironment(tmp_path / "dev", made.port)


@pytest.fixture
def fake_util(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put another softhsm2-util on the PATH."""

    def put(script: str) -> None:
        (tmp_path / "bin").mkdir()
        util = tmp_path / "bin" / "softhsm2-util"
        util.write_text(f"#!/bin/sh\n{script}\n")
        util.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return put


def test_its_configuration_is_one_that_serve_accepts(made: DevEnvironment) -> None:
    config = load_config(made.config)

    assert check_config(config) == []
    assert config.server.listen == "127.0.0.1:18443"
    assert (config.keystore[0].name, config.keystore[0].uri_path_prefix) == ("dev", "/dev")
    exposed = {key.id for key in config.keystore[0].keys}
    assert exposed == {"demo-key", "encrypt-only-key", "decrypt-only-key", "impotent-key"}


def test_directories_and_secrets_are_for_their_owner_alone_whatever_the_umask(made: DevEnvironment) -> None:
    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    directory = made.directory
    directories = {path: mode(path) for path in [directory, *directory.rglob("*")] if path.is_dir()}
    assert set(directories.values()) == {0o700}, directories
    secrets = [
        directory / "pin",
        directory / "client.env",
        directory / "kms-console.json",
        directory / "tls" / "ca-key.pem",
        directory / "tls" / "server-key.pem",
        *(directory / "credentials").iterdir(),
        *(path for path in (directory / "tokens").rglob("*") if path.is_file()),
    ]
    assert {path.name: mode(path) for path in secrets if mode(path) != 0o600} == {}


def test_no_secret_stands_in_a_file_that_is_open_to_others(made: DevEnvironment) -> None:
    pin = read_pin(load_config(made.config).hsm[0])
    assert pin is not None
    secrets = (pin.reveal().encode(), made.credential.secret_access_key.encode(), b"PRIVATE KEY")

    for path in made.directory.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            assert not any(secret in path.read_bytes() for secret in secrets), path


def test_the_console_file_has_exactly_the_form_that_kms_takes(made: DevEnvironment) -> None:
    # R-CONF-2
    (credential,) = load_credentials(made.directory / "credentials")

    console = json.loads((made.directory / "kms-console.json").read_text())

    assert console == {
        "XksProxyUriPath": "/dev/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": credential.access_key_id,
            "RawSecretAccessKey": credential.secret_access_key,
        },
    }
    assert re.fullmatch(r"[A-Z2-7]{20,30}", credential.access_key_id)
    assert re.fullmatch(r"[A-Za-z0-9+/=]{43,64}", credential.secret_access_key)


def test_client_env_exports_exactly_the_variables_of_the_public_test_client(made: DevEnvironment) -> None:
    variables = _sourced(made.client_env)

    assert set(variables) == _VARIABLES
    assert variables == {
        "XKS_PROXY_HOST": "localhost:18443",
        "URI_PREFIX": "dev",
        "SIGV4_ACCESS_KEY_ID": made.credential.access_key_id,
        "SIGV4_SECRET_ACCESS_KEY": made.credential.secret_access_key,
        "REGION": "us-east-1",
        "KEY_ID": "demo-key",
        "ENCRYPT_ONLY_KEY_ID": "encrypt-only-key",
        "DECRYPT_ONLY_KEY_ID": "decrypt-only-key",
        "IMPOTENT_KEY_ID": "impotent-key",
        "SCHEME": "https://",
        "SECURE": f"--cacert {made.directory / 'tls' / 'ca.pem'}",
        "XKSPROXY_CONFIG": str(made.config),
    }


def _verifies(environment: DevEnvironment, name: str) -> bool:
    """Whether a client that trusts the development CA alone takes the server for one of this name."""
    tls = load_config(environment.config).server.tls
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(tls.certificate, tls.private_key)
    client_context = ssl.create_default_context(cafile=environment.authority)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
            if side is client:
                return True
    raise AssertionError("the handshake does not end")


def test_its_certificate_is_for_this_machine_and_no_other(made: DevEnvironment) -> None:
    assert [_verifies(made, name) for name in ("localhost", "127.0.0.1", "::1")] == [True, True, True]
    assert not _verifies(made, "example.com")


def test_two_environments_share_no_secret_and_no_authority(made: DevEnvironment, tmp_path: Path) -> None:
    # Into a directory that is there and empty, and below one that is not there.
    (tmp_path / "empty").mkdir(0o755)
    other = _make(tmp_path / "empty")

    assert other.directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert made.credential != other.credential
    for name in ("pin", "tls/ca.pem", "tls/ca-key.pem", "tls/server-key.pem", "kms-console.json"):
        assert (made.directory / name).read_bytes() != (other.directory / name).read_bytes()


def test_a_second_call_keeps_everything_byte_for_byte(made: DevEnvironment) -> None:
    before = _contents(made.directory)
    times = {path: path.stat().st_mtime_ns for path in made.directory.rglob("*") if path.name != "client.env"}

    again = open_environment(made.directory, None, 9999)

    assert again == made
    assert _contents(made.directory) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_lost_client_env_is_written_again(copy: DevEnvironment) -> None:
    copy.client_env.unlink()

    open_environment(copy.directory, None, 9999)

    assert set(_sourced(copy.client_env)) == _VARIABLES
    assert copy.client_env.stat().st_mode & 0o777 == 0o600


def test_another_port_changes_the_configuration_and_client_env_alone_and_is_kept(copy: DevEnvironment) -> None:
    before = _contents(copy.directory)

    changed = open_environment(copy.directory, 9443, 9999)
    again = open_environment(copy.directory, None, 9999)

    assert (changed.port, again.port) == (9443, 9443)
    assert load_config(copy.config).server.listen == "127.0.0.1:9443"
    assert _sourced(copy.client_env)["XKS_PROXY_HOST"] == "localhost:9443"
    after = _contents(copy.directory)
    assert {str(path) for path in after if after[path] != before[path]} == {"xksproxy.toml", "client.env"}
    assert copy.config.read_text() == before[Path("xksproxy.toml")][1].decode().replace("18443", "9443")


@pytest.mark.parametrize("line", ['listen="127.0.0.1:18443"', "listen = '127.0.0.1:18443'", '  listen = "h:18443"'])
def test_another_port_takes_effect_however_the_line_was_written(copy: DevEnvironment, line: str) -> None:
    copy.config.write_text(copy.config.read_text().replace('listen = "127.0.0.1:18443"', line))

    environment = open_environment(copy.directory, 9443, 9999)

    assert load_config(copy.config).server.listen.endswith(f":{environment.port}")


def test_what_a_person_added_to_the_configuration_is_kept(copy: DevEnvironment) -> None:
    text = copy.config.read_text() + '\n[[keystore]]\nname = "mine"\nuri_path_prefix = ""\nhsms = ["softhsm"]\n'
    text += 'credentials = "credentials"\n[[keystore.keys]]\nid = "*"  # all of it\n'
    copy.config.write_text(text)

    open_environment(copy.directory, None, 9999)

    assert copy.config.read_text() == text


def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all my work")

    with pytest.raises(OSError, match="choose another --dir"):
        open_environment(tmp_path / "mine", None, 8443)

    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["mine", "mine/thesis.txt"]


def test_when_softhsm2_fails_nothing_is_left_behind(fake_util: Callable[[str], None], tmp_path: Path) -> None:
    fake_util("echo 'the disk is full' >&2; exit 1")
    home = tmp_path / "home"
    home.mkdir()

    with pytest.raises(SoftHsmError, match="the disk is full"):
        open_environment(home / "dev", None, 8443)

    assert list(home.iterdir()) == []


def test_when_softhsm2_fails_an_empty_directory_stays_as_it_was(
    fake_util: Callable[[str], None], tmp_path: Path
) -> None:
    fake_util("exit 1")
    (tmp_path / "home" / "dev").mkdir(parents=True)

    with pytest.raises(SoftHsmError):
        open_environment(tmp_path / "home" / "dev", None, 8443)

    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["dev"]


def test_where_softhsm2_is_missing_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(SoftHsmError, match="apt-get install softhsm2"):
        open_environment(tmp_path / "dev", None, 8443)

    assert list(tmp_path.iterdir()) == []


def test_when_there_is_no_token_after_all_nothing_is_left_behind(
    fake_util: Callable[[str], None], tmp_path: Path
) -> None:
    # softhsm2-util says that all is well and has done nothing: the failure comes from PKCS#11.
    fake_util("exit 0")
    home = tmp_path / "home"
    home.mkdir()

    done = subprocess.run(_command(home / "dev", 8443), stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert "TokenUnavailable: 0 tokens have the label" in done.stderr
    assert list(home.iterdir()) == []


def _interrupt(fake_util: Callable[[str], None], tmp_path: Path, number: signal.Signals) -> None:
    """Start to make an environment below home/, and send a signal while softhsm2-util runs."""
    os.mkfifo(tmp_path / "started")
    fake_util(f"echo started >{tmp_path / 'started'}; exec sleep 60")
    (tmp_path / "home").mkdir()
    process = subprocess.Popen(
        _command(tmp_path / "home" / "dev", 8443),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert (tmp_path / "started").read_text() == "started\n"
        assert [path.name.startswith(".dev-") for path in (tmp_path / "home").iterdir()] == [True]
        process.send_signal(number)
        assert process.wait(30) != 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_ctrl_c_half_way_leaves_nothing_behind(fake_util: Callable[[str], None], tmp_path: Path) -> None:
    _interrupt(fake_util, tmp_path, signal.SIGINT)

    assert list((tmp_path / "home").iterdir()) == []


def test_a_kill_half_way_leaves_no_environment_and_does_not_hinder_the_next_call(
    fake_util: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    _interrupt(fake_util, tmp_path, signal.SIGKILL)
    assert not (tmp_path / "home" / "dev").exists()
    monkeypatch.setenv("PATH", path)

    environment = _make(tmp_path / "home" / "dev")

    assert check_config(load_config(environment.config)) == []


def _server_certificate(environment: DevEnvironment) -> x509.Certificate:
    return x509.load_pem_x509_certificate((environment.directory / "tls" / "server.pem").read_bytes())


def _issue(environment: DevEnvironment, days: int) -> None:
    """Replace the server's certificate by one that ends earlier."""
    tls = environment.directory / "tls"
    authority = certificates.load_authority((tls / "ca.pem").read_bytes(), (tls / "ca-key.pem").read_bytes())
    certificate, key = certificates.issue(authority, "localhost", hosts=("localhost",), days=days)
    (tls / "server.pem").write_bytes(certificate)
    certificates.write_private(tls / "server-key.pem", key)


@pytest.mark.parametrize("days", [0, 29])
def test_a_certificate_near_its_end_is_renewed_by_the_same_authority(copy: DevEnvironment, days: int) -> None:
    _issue(copy, days)
    near_its_end = _server_certificate(copy)
    before = _contents(copy.directory)

    open_environment(copy.directory, None, 9999)

    renewed = _server_certificate(copy)
    assert (renewed.not_valid_after_utc - near_its_end.not_valid_after_utc).days > 300
    assert [_verifies(copy, name) for name in ("localhost", "127.0.0.1", "::1")] == [True, True, True]
    assert (copy.directory / "tls" / "server-key.pem").stat().st_mode & 0o777 == 0o600
    after = _contents(copy.directory)
    assert {str(path) for path in after if after[path] != before[path]} >= {"tls/server.pem", "tls/server-key.pem"}
    assert after[Path("tls/ca.pem")] == before[Path("tls/ca.pem")]
    assert not list(copy.directory.rglob(".*"))


def test_a_certificate_that_lasts_a_while_is_kept(copy: DevEnvironment) -> None:
    _issue(copy, 31)
    before = _server_certificate(copy)

    open_environment(copy.directory, None, 9999)

    assert _server_certificate(copy) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tls/server.pem", b"nonsense"),
        ("tls/server.pem", None),
        ("xksproxy.toml", b"nonsense"),
        ("xksproxy.toml", b""),
        ("credentials", None),
    ],
)
def test_a_damaged_environment_is_refused_with_what_is_wrong(
    copy: DevEnvironment, name: str, content: bytes | None
) -> None:
    path = copy.directory / name
    if content is not None:
        path.write_bytes(content)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

    with pytest.raises((ConfigError, OSError), match=re.escape(str(path))):
        open_environment(copy.directory, None, 9999)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:", "127.0.0.1:https"])
def test_an_environment_that_listens_nowhere_is_refused(copy: DevEnvironment, listen: str) -> None:
    copy.config.write_text(copy.config.read_text().replace("127.0.0.1:18443", listen))

    with pytest.raises(ConfigError, match=r"server\.listen"):
        open_environment(copy.directory, None, 9999)


@pytest.mark.parametrize("name", ['it\'s a "$HOME" \\ é', "\N{GRINNING FACE}"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    environment = _make(tmp_path / name / "dev", free_port())

    assert check_config(load_config(environment.config)) == []
    assert _sourced(environment.client_env)["XKSPROXY_CONFIG"] == str(environment.config)
    assert list((environment.directory / "tokens").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == [name]
