"""The directory of `xksproxy dev`."""

import contextlib
import json
import os
import re
import shutil
import signal
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

from xksproxy.config.check import check_config
from xksproxy.config.credentials import load_credentials
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.config.pins import read_pin

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
    """A new environment; tests that change one use a copy."""
    return _make(tmp_path_factory.mktemp("devkit") / "dev", 18443)


@pytest.fixture
def copy(made: DevEnvironment, tmp_path: Path) -> DevEnvironment:
    """A copy to change. Its token is that of the original, which no test here uses."""
    shutil.copytree(made.directory, tmp_path / "dev")
    return DevEnvironment(tmp_path / "dev", made.port)


@pytest.fixture
def fake_util(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:

    def put(script: str) -> None:
        (tmp_path / "bin").mkdir()
        util = tmp_path / "bin" / "softhsm2-util"
        util.write_text(f"#!/bin/sh\n{script}\n")
        util.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    return put


def test_serve_accepts_its_configuration(made: DevEnvironment) -> None:
    config = load_config(made.config)

    assert check_config(config) == []
    assert config.server.listen == "127.0.0.1:18443"
    assert (config.keystore[0].name, config.keystore[0].uri_path_prefix) == ("dev", "/dev")
    exposed = {key.id for key in config.keystore[0].keys}
    assert exposed == {"demo-key", "encrypt-only-key", "decrypt-only-key", "impotent-key"}


def test_only_the_owner_can_read_directories_and_secrets_regardless_of_the_umask(made: DevEnvironment) -> None:
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


def test_files_that_others_can_read_contain_no_secret(made: DevEnvironment) -> None:
    pin = read_pin(load_config(made.config).hsm[0])
    assert pin is not None
    secrets = (pin.reveal().encode(), made.credential.secret_access_key.encode(), b"PRIVATE KEY")

    for path in made.directory.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o077:
            assert not any(secret in path.read_bytes() for secret in secrets), path


def test_the_console_file_has_the_format_that_kms_imports(made: DevEnvironment) -> None:
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


def _certificate_names(environment: DevEnvironment) -> set[str]:
    """The names and addresses in the server's certificate, which the development CA must have signed."""
    certificate = _server_certificate(environment)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(environment.authority.read_bytes()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def test_its_certificate_is_for_this_machine_and_no_other(made: DevEnvironment) -> None:
    assert _certificate_names(made) == {"localhost", "127.0.0.1", "::1"}


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

    assert _sourced(copy.client_env)["XKSPROXY_CONFIG"] == str(copy.config)
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


@pytest.mark.parametrize("line", ['listen="127.0.0.1:18443"', "listen = '127.0.0.1:18443'", '  listen = "[::1]:18443"'])
def test_another_port_takes_effect_however_the_line_was_written(copy: DevEnvironment, line: str) -> None:
    copy.config.write_text(copy.config.read_text().replace('listen = "127.0.0.1:18443"', line))

    environment = open_environment(copy.directory, 9443, 9999)

    assert load_config(copy.config).server.listen.endswith(f":{environment.port}")


def test_additions_to_the_configuration_are_kept(copy: DevEnvironment) -> None:
    text = copy.config.read_text() + '\n[[keystore]]\nname = "mine"\nuri_path_prefix = ""\nhsms = ["softhsm"]\n'
    text += 'credentials = "credentials"\n[[keystore.keys]]\nid = "*"  # all of it\n'
    copy.config.write_text(text)

    open_environment(copy.directory, None, 9999)

    assert copy.config.read_text() == text


def test_an_empty_directory_stays_empty_if_softhsm2_fails(fake_util: Callable[[str], None], tmp_path: Path) -> None:
    fake_util("exit 1")
    (tmp_path / "home" / "dev").mkdir(parents=True)

    with pytest.raises(SoftHsmError):
        open_environment(tmp_path / "home" / "dev", None, 8443)

    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["dev"]


def test_nothing_is_left_behind_if_there_is_no_token_in_spite_of_success(
    fake_util: Callable[[str], None], tmp_path: Path
) -> None:
    # softhsm2-util says that all is well and has done nothing: the failure comes from PKCS#11.
    fake_util("exit 0")
    home = tmp_path / "home"
    home.mkdir()

    done = subprocess.run(_command(home / "dev", 8443), stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 1
    assert "TokenUnavailable: 0 tokens fit" in done.stderr
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


def test_ctrl_c_leaves_nothing_behind(fake_util: Callable[[str], None], tmp_path: Path) -> None:
    _interrupt(fake_util, tmp_path, signal.SIGINT)

    assert list((tmp_path / "home").iterdir()) == []


def test_a_kill_does_not_hinder_the_next_call_which_makes_other_secrets_in_a_directory_of_any_name(
    made: DevEnvironment, fake_util: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = os.environ["PATH"]
    _interrupt(fake_util, tmp_path, signal.SIGKILL)
    assert not (tmp_path / "home" / "dev").exists()
    monkeypatch.setenv("PATH", path)
    parent = tmp_path / "home" / 'it\'s a "$HOME" \\ é \N{GRINNING FACE}'
    (parent / "dev").mkdir(0o755, parents=True)  # an empty directory is used

    other = _make(parent / "dev", free_port())

    assert check_config(load_config(other.config)) == []
    assert _sourced(other.client_env)["XKSPROXY_CONFIG"] == str(other.config)
    assert list((other.directory / "tokens").iterdir())
    assert other.directory.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in parent.iterdir()] == ["dev"]
    assert made.credential != other.credential
    for name in ("pin", "tls/ca.pem", "tls/ca-key.pem", "tls/server-key.pem", "kms-console.json"):
        assert (made.directory / name).read_bytes() != (other.directory / name).read_bytes()


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
def test_a_certificate_that_expires_soon_is_renewed_by_the_same_authority(copy: DevEnvironment, days: int) -> None:
    _issue(copy, days)
    near_its_end = _server_certificate(copy)
    before = _contents(copy.directory)

    open_environment(copy.directory, None, 9999)

    renewed = _server_certificate(copy)
    assert (renewed.not_valid_after_utc - near_its_end.not_valid_after_utc).days > 300
    assert _certificate_names(copy) == {"localhost", "127.0.0.1", "::1"}
    assert (copy.directory / "tls" / "server-key.pem").stat().st_mode & 0o777 == 0o600
    after = _contents(copy.directory)
    assert {str(path) for path in after if after[path] != before[path]} >= {"tls/server.pem", "tls/server-key.pem"}
    assert after[Path("tls/ca.pem")] == before[Path("tls/ca.pem")]
    assert not list(copy.directory.rglob(".*"))


def test_a_certificate_that_does_not_expire_soon_is_kept(copy: DevEnvironment) -> None:
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
def test_a_damaged_environment_is_refused_with_the_name_of_the_file(
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
def test_an_invalid_listen_address_is_refused(copy: DevEnvironment, listen: str) -> None:
    copy.config.write_text(copy.config.read_text().replace("127.0.0.1:18443", listen))

    with pytest.raises(ConfigError, match=r"server\.listen"):
        open_environment(copy.directory, None, 9999)
