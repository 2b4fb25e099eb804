"""`xksproxy import-settings`: its files, output and exit code; and that the proxy serves with the result."""

import base64
import hashlib
import json
import ssl
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from importing_support import ACCESS_KEY_ID, PIN, SECRET, SETTINGS, changed
from support import (
    PATIENCE_SECONDS,
    REGION,
    free_port,
    make_environment,
    serve,
    wait_for_port,
    wait_until_serving,
)
from xksproxy_tools.development.environment import TOKEN_LABEL, DevEnvironment

from xksproxy.cli import import_settings as command
from xksproxy.client.xks import Endpoint, XksClient
from xksproxy.config.load import load_config
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.uri import Operation

Run = Callable[..., Any]

# A key whose value the test knows, put on the token by a process that ends, as this one must not touch PKCS#11.
_KNOWN_KEY = bytes(range(32))
_KNOWN_KEY_PROGRAM = """
import sys
from pathlib import Path
from pkcs11 import Attribute, KeyType, ObjectClass
from xksproxy.config.pins import read_pin
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.command_sessions import open_session

config = load_config(Path(sys.argv[1]))
session = open_session(config.hsm[0], read_pin(config.hsm[0]), Path(config.state.directory))._session
session.create_object({
    Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.TOKEN: True,
    Attribute.PRIVATE: True, Attribute.LABEL: "known-key", Attribute.VALUE: bytes.fromhex(sys.argv[2]),
    Attribute.ENCRYPT: True, Attribute.DECRYPT: True,
})
"""


@pytest.fixture
def home(tmp_path: Path, environment: DevEnvironment) -> Path:
    """The directory of the sample proxy: its settings in `configuration`, and the files that they name."""
    home = tmp_path / "sample"
    (home / "configuration").mkdir(parents=True)
    (home / "certs").mkdir()
    (home / "certs" / "server.pem").write_bytes((environment.directory / "tls/server.pem").read_bytes())
    key = home / "certs" / "server-key.pem"
    key.touch(0o600)
    key.write_bytes((environment.directory / "tls/server-key.pem").read_bytes())
    (home / "libsofthsm2.so").write_text("")
    return home


@pytest.fixture
def write(home: Path) -> Callable[..., Path]:
    """Write the settings, with files that are there, and some texts replaced."""

    def write_settings(*changes: tuple[str, str]) -> Path:
        path = home / "configuration" / "settings.toml"
        there = ("/etc/keys/server-key.pem", "certs/server-key.pem"), ("/opt/lib/libsofthsm2.so", "libsofthsm2.so")
        path.write_text(changed(*there, *changes))
        return path

    return write_settings


@pytest.fixture
def imported(run: Run, tmp_path: Path) -> Run:
    """Run the command with --out. Its output must contain no secret."""

    def run_import(*arguments: str | Path) -> Any:
        done = run("import-settings", "--out", tmp_path / "out", *arguments)
        for secret in (PIN, SECRET):
            assert secret not in done.text + done.err
        return done

    return run_import


def _groups(text: str) -> dict[str, str]:
    """The paragraphs of the summary by their headings."""
    return {paragraph.partition("\n")[0]: paragraph for paragraph in text.split("\n\n")}


def test_complete_settings_make_a_directory_that_passes_the_check(
    imported: Run, run: Run, write: Callable[..., Path], tmp_path: Path
) -> None:
    done = imported(write(), "--token", "production")

    out = tmp_path / "out"
    assert (done.code, done.err) == (0, "")
    assert done.text.startswith(
        f"wrote {out}\n  xksproxy.toml\n  pin\n  credentials/payments-eu/{ACCESS_KEY_ID}.toml\n"
        f"relative paths of the settings were taken from {tmp_path / 'sample'} (--base)\n"
    )
    assert "To do before it serves:" not in _groups(done.text)
    assert "production" in _groups(done.text)["Different here:"]
    assert f"xksproxy check-config --config {out}/xksproxy.toml\n" in done.text
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.rglob("*") if path.is_file()} == {0o600}
    assert PIN not in (out / "xksproxy.toml").read_text()
    assert SECRET not in (out / "xksproxy.toml").read_text()

    (out / "state").mkdir()
    _set(out, '# directory = "/var/lib/xksproxy"', 'directory = "state"')
    text = (out / "xksproxy.toml").read_text()
    (out / "xksproxy.toml").write_text(text.replace("192.0.2.7:", "127.0.0.1:"))  # an address of this machine
    assert run("check-config", "--config", out / "xksproxy.toml").code == 0


def _set(out: Path, old: str, new: str) -> None:
    text = (out / "xksproxy.toml").read_text()
    assert old in text
    (out / "xksproxy.toml").write_text(text.replace(old, new))


def test_something_to_do_is_grouped_apart_and_is_exit_code_1(imported: Run, write: Callable[..., Path]) -> None:
    done = imported(write((SECRET, ""), ("[tls]", "[tracing]\n[tls]")))

    assert (done.code, done.err) == (1, "")
    groups = _groups(done.text)
    assert "pkcs11-tool" in groups["To do before it serves:"]
    assert "key store payments-eu" in groups["To do before it serves:"]
    assert "tracing" in groups["No counterpart:"]


def test_what_the_check_would_refuse_is_to_do_too_but_not_twice(
    imported: Run, write: Callable[..., Path], home: Path
) -> None:
    (home / "certs" / "server-key.pem").chmod(0o644)
    (home / "libsofthsm2.so").unlink()

    done = imported(write((SECRET, ""), ("/payments/eu", "/payments/")), "--token", "production", "--json")

    assert done.code == 1
    to_do = [finding["place"] for finding in json.loads(done.text)["findings"] if finding["severity"] == "to-do"]
    assert to_do == [
        "keystore[0].credentials",
        "server.tls.private_key",
        "hsm[0].module",
        "keystore[0].uri_path_prefix",
    ]


def test_a_problem_of_the_state_directory_is_no_task_of_the_import(
    imported: Run, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "state.directory: /var/lib/xksproxy cannot be written"
    monkeypatch.setattr(command, "problems_of", lambda *_: [problem])

    assert imported(write(), "--token", "production").code == 0


def test_json_has_the_same_facts(imported: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    done = imported(write(), "--token", "production", "--json")

    facts = json.loads(done.text)
    out = str(tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert (facts["directory"], facts["base"]) == (out, str(tmp_path / "sample"))
    assert facts["files"] == ["xksproxy.toml", "pin", f"credentials/payments-eu/{ACCESS_KEY_ID}.toml"]
    assert facts["keystores"] == ["payments-eu"]
    assert {"setting", "severity", "place", "text"} == set(facts["findings"][0])
    assert facts["next"][0] == f"xksproxy check-config --config {out}/xksproxy.toml"


def test_the_base_can_be_named_and_is_else_where_the_settings_are(
    imported: Run, run: Run, write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = write()
    done = imported(settings, "--base", tmp_path / "x" / ".." / "other")

    assert f"taken from {tmp_path / 'other'} (--base)" in done.text
    assert f'certificate = "{tmp_path}/other/certs/server.pem"' in (tmp_path / "out/xksproxy.toml").read_text()

    plain = tmp_path / "plain.toml"
    plain.write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    assert f"taken from {tmp_path} (--base)" in run("import-settings", "plain.toml", "--out", "out2").text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"\x00\xff\x7fELF", "it has a NUL byte"),
        (b"a = [", "not TOML"),
        (b"a = " + b"[" * 50_000, "its values are nested too deeply"),
        (b"", "missing key `server`"),
        (SETTINGS.replace("port = 8443", 'port = "8443"').encode(), "server.port: Expected `int`, got `str`"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_file_and_key_and_nothing_is_written(
    imported: Run, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    settings = tmp_path / "settings.toml"
    if content is not None:
        settings.write_bytes(content)

    done = imported(settings)

    assert (done.code, done.out) == (2, b"")
    first, second = done.err.splitlines()
    assert first == "xksproxy: the settings cannot be imported:"
    assert second.startswith(f"  {settings}: ")
    assert problem in second
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_not_empty_is_left_alone(imported: Run, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pin").write_text("mine")

    done = imported(write())

    assert (done.code, done.out) == (2, b"")
    assert done.err == f"xksproxy: {tmp_path / 'out'}: it exists and is not an empty directory; choose another --out\n"
    assert (tmp_path / "out" / "pin").read_text() == "mine"


@pytest.mark.parametrize("option", ["--token", "--base", "--out"])
@pytest.mark.parametrize("value", ["", "\udcff"])
def test_what_no_configuration_could_hold_is_refused(
    imported: Run, write: Callable[..., Path], tmp_path: Path, option: str, value: str
) -> None:
    assert imported(write(), option, value).code == 2
    assert not (tmp_path / "out").exists()


# End to end.


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> DevEnvironment:
    """A SoftHSM2 token with keys, and a server certificate."""
    made = make_environment(tmp_path_factory.mktemp("token") / "dev")
    subprocess.run([sys.executable, "-c", _KNOWN_KEY_PROGRAM, str(made.config), _KNOWN_KEY.hex()], check=True)
    return made


@pytest.fixture(scope="module")
def serving(token: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A proxy that serves from the imported settings of a sample proxy on that token, and what KMS knows of it."""
    home, port = tmp_path_factory.mktemp("imported"), free_port()
    pin = (token.directory / "pin").read_text().strip()
    (home / "settings.toml").write_text(_settings_on(token, pin, port))
    options: list[str | Path] = ["--base", token.directory, "--token", TOKEN_LABEL, "--out", home / "out"]
    config = home / "out" / "xksproxy.toml"
    assert pin not in _succeed("import-settings", home / "settings.toml", *options)
    _set(home / "out", '# directory = "/var/lib/xksproxy"', 'directory = "state"')
    _set(home / "out", '# environment = { NAME = "value" }', _softhsm_environment(token))
    with config.open("a") as file:  # by default it would be a port that others may have
        file.write(f'\n[admin]\nlisten = "127.0.0.1:{free_port()}"\n')
    _succeed("check-config", "--config", config)
    process = serve(config, home / "log")
    try:
        wait_for_port(port, process)
        wait_until_serving(config, process)
        yield Endpoint(f"localhost:{port}", "/payments/eu", REGION, Credential(ACCESS_KEY_ID, SECRET))
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def _settings_on(token: DevEnvironment, pin: str, port: int) -> str:
    module = load_config(token.config).hsm[0].module
    return changed(
        ("192.0.2.7", "127.0.0.1"),
        ("port = 8443", f'port = {port}\nciphertext_metadata_b64 = "djE="'),
        ("port_http_ping = 8080", f"port_http_ping = {port}"),
        ("certs/server.pem", "tls/server.pem"),
        ("/etc/keys/server-key.pem", "tls/server-key.pem"),
        ("/opt/lib/libsofthsm2.so", module),
        (PIN, pin),
        ('["key-b", "key-a"]', '["demo-key", "known-key", "missing-key"]'),
    )


def _softhsm_environment(token: DevEnvironment) -> str:
    return f'environment = {{ SOFTHSM2_CONF = "{token.directory / "softhsm2.conf"}" }}'


def _succeed(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "xksproxy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_the_proxy_serves_from_the_imported_directory(
    serving: Endpoint, token: DevEnvironment, request_metadata: dict[str, str]
) -> None:
    message = {
        "requestMetadata": request_metadata,
        "plaintext": "SGVsbG8=",
        "additionalAuthenticatedData": "QUFE",
        "encryptionAlgorithm": "AES_GCM",
        "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
    }
    with XksClient(serving, ssl.create_default_context(cafile=token.authority)) as client:
        sealed = client.call(Operation.ENCRYPT, message, "demo-key")
        assert sealed.status == 200, sealed.body
        # The four bytes of ciphertext metadata: format 1, AAD by its SHA-256, version 1.
        assert sealed.body["ciphertextMetadata"] == "+QEAAQ=="
        parts = ("ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata")
        back = {
            "requestMetadata": request_metadata,
            "additionalAuthenticatedData": "QUFE",
            "encryptionAlgorithm": "AES_GCM",
            **{part: sealed.body[part] for part in parts},
        }
        opened = client.call(Operation.DECRYPT, back, "demo-key")
        assert (opened.status, opened.body) == (200, {"plaintext": "SGVsbG8="})
        assert client.call(Operation.ENCRYPT, message, "missing-key").body["errorName"] == "KeyNotFoundException"
        assert client.call(Operation.ENCRYPT, message, "encrypt-only-key").body["errorName"] == "KeyNotFoundException"


@pytest.mark.slow
@pytest.mark.parametrize("metadata", [b"", b"v1"])
@pytest.mark.parametrize("aad", [None, b"project=nile"])
def test_it_decrypts_what_the_sample_proxy_has_encrypted(
    serving: Endpoint, token: DevEnvironment, request_metadata: dict[str, str], metadata: bytes, aad: bytes | None
) -> None:
    # The sample's layout, written down again: length of the AAD, its digest if there is one, metadata and its length.
    digest = b"" if aad is None else hashlib.sha256(aad).digest()
    composed = len(aad or b"").to_bytes(2, "big") + digest + bytes([len(metadata)]) + metadata
    iv = b"sample's iv."
    sealed = AESGCM(_KNOWN_KEY).encrypt(iv, b"from before", composed)
    message: dict[str, Any] = {
        "requestMetadata": request_metadata,
        "encryptionAlgorithm": "AES_GCM",
        "ciphertext": base64.b64encode(sealed[:-16]).decode(),
        "authenticationTag": base64.b64encode(sealed[-16:]).decode(),
        "initializationVector": base64.b64encode(iv).decode(),
    }
    if aad is not None:
        message["additionalAuthenticatedData"] = base64.b64encode(aad).decode()
    if metadata:
        message["ciphertextMetadata"] = base64.b64encode(metadata).decode()

    with XksClient(serving, ssl.create_default_context(cafile=token.authority)) as client:
        opened = client.call(Operation.DECRYPT, message, "known-key")

    assert (opened.status, opened.body) == (200, {"plaintext": base64.b64encode(b"from before").decode()})
