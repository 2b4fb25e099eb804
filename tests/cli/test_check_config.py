"""`xksproxy check-config`."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_support import run_apart, with_free_ports
from support import Proxy
from xksproxy_tools.development import certificates
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.cli.config_check import load_checked
from xksproxy.config.load import load_config
from xksproxy.state.blocks import Block, block_table


@pytest.fixture
def copy(environment: DevEnvironment, tmp_path: Path) -> Path:
    """A copy of the tests' configuration and its files, for changes."""
    shutil.copytree(
        environment.directory, tmp_path / "dev", ignore=shutil.ignore_patterns("tokens", "log", "audit", "*.partial")
    )
    config = tmp_path / "dev" / "xksproxy.toml"
    config.write_text(with_free_ports(config.read_text()))
    return config


def _change(config: Path, old: str, new: str) -> None:
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def test_a_good_configuration_is_ok(run: Callable[..., Any], copy: Path) -> None:
    done = run("check-config", "--config", copy)

    assert (done.code, done.err) == (0, "")
    assert done.text.startswith(f"{copy}: ok; the HSMs were not checked")
    assert "key stores: dev" in done.text
    assert "HSMs: softhsm" in done.text


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("server.pem", lambda pem: b"\xef\xbb\xbf" + pem, "it begins with a byte-order mark"),
        ("server.pem", lambda pem: pem + b"#" * 1024 * 1024, "it has more than 1048576 bytes"),
        (
            "server.pem",
            lambda pem: pem.replace(b" CERT", b" TRUSTED CERT"),
            "it holds no certificate in PEM",
        ),
        ("server-key.pem", lambda pem: pem + b"#" * 65536, "it has more than 65536 bytes"),
    ],
    ids=["byte-order mark", "large", "trusted", "large key"],
)
def test_what_openssl_loads_and_the_service_refuses_is_a_problem(
    run: Callable[..., Any], copy: Path, file: str, damage: Callable[[bytes], bytes], reason: str
) -> None:
    path = copy.parent / "tls" / file
    path.write_bytes(damage(path.read_bytes()))

    checked, served = run("check-config", "--config", copy), run_apart("serve", "--config", copy)

    assert (checked.code, served.code) == (1, 2)
    assert f"{path}: {reason}" in checked.err
    assert f"{path}: {reason}" in served.err


def test_json_has_the_same_result(run: Callable[..., Any], copy: Path) -> None:
    done = run("check-config", "--config", copy, "--json")

    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.text)
    assert facts.pop("keystores")[0] == "dev"
    listen = load_config(copy).server.listen
    assert facts == {"ok": True, "listen": listen, "hsms": ["softhsm"], "warnings": []}


def test_the_file_can_be_named_by_a_variable(
    run: Callable[..., Any], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XKSPROXY_CONFIG", str(copy))

    assert run("check-config").code == 0


def test_json_lists_the_problems_on_standard_output(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, "[server]", "[server]\nwrokers = 2")

    done = run("check-config", "--config", copy, "--json")

    assert (done.code, done.err) == (1, "")
    problems = [f"{copy}: server.wrokers: unknown key; did you mean workers?"]
    assert json.loads(done.text) == {"ok": False, "problems": problems, "warnings": []}


def test_a_key_that_does_not_fit_the_certificate_is_found(run: Callable[..., Any], copy: Path) -> None:
    _, other_key = certificates.issue(certificates.create_authority("other"), "localhost")
    (copy.parent / "tls" / "server-key.pem").write_bytes(other_key)

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert f"server.tls.private_key: {copy.parent / 'tls' / 'server-key.pem'} is not the key of" in done.err


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ('object_id = "0x0a1B"', 'object_id: expected CKA_ID in hexadecimal, such as "0a1b", got 0x0a1B'),
        ('object_id = "abc"', 'object_id: expected CKA_ID in hexadecimal, such as "0a1b", got abc'),
        ('uri = "pkcs11:id=%ZZ"', "id=%ZZ is not of the form name=value of RFC 7512"),
        ('uri = "pkcs11:object=a;type=secret"', "type must be secret-key"),
        ('uri = "pkcs11:object=a"\nlabel = "b"', "uri goes without label and object_id"),
        ('versions = { 1 = "pkcs11:slot-id=1" }', "slot-id is not supported here"),
    ],
)
def test_a_wrong_name_of_a_key_is_a_problem_with_its_place(
    run: Callable[..., Any], copy: Path, setting: str, reason: str
) -> None:
    _change(copy, 'id = "demo-key"', f'id = "demo-key"\n{setting}')

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert done.err.startswith("xksproxy: the configuration cannot be used:\n")
    assert re.search(rf"{re.escape(str(copy))}: keystore\[0\]\.keys\[0\]\S* {re.escape(reason)}", done.err), done.err


def test_a_key_store_with_a_name_that_no_file_can_have_is_named(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, 'name = "dev"', r'name = "\u0000"')

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert "keystore[0].name: expected 1 to 64 characters" in done.err


def test_a_client_ca_that_does_not_load_is_found(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, "[server.tls]", '[server.tls]\nclient_ca = "pin"\nclient_names = ["name"]')

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert f"  {copy}: server.tls.client_ca: " in done.err


@pytest.mark.parametrize("name", ["none.toml", "none/x.toml", "n" * 300, "\udcff.toml"])
def test_a_file_that_is_not_there_is_named(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    done = run("check-config", "--config", tmp_path / name)

    assert done.code == 2
    assert done.err.startswith("xksproxy: ")
    assert str(tmp_path) in done.err


def _reissue(copy: Path, *hosts: str) -> None:
    tls = copy.parent / "tls"
    authority = certificates.load_authority((tls / "ca.pem").read_bytes(), (tls / "ca-key.pem").read_bytes())
    certificate, key = certificates.issue(authority, "localhost", hosts=hosts)
    (tls / "server.pem").write_bytes(certificate)
    (tls / "server-key.pem").write_bytes(key)


def test_warnings_are_printed_and_leave_the_exit_code_at_0(run: Callable[..., Any], copy: Path) -> None:
    (copy.parent / "credentials").chmod(0o770)

    done = run("check-config", "--config", copy)
    facts = json.loads(run("check-config", "--config", copy, "--json").text)

    assert done.code == 0
    assert done.text.startswith(f"{copy}: ok")
    (line,) = done.err.splitlines()
    assert line.startswith(f"xksproxy: warning: {copy}: keystore[0].credentials: the mode of ")
    assert (facts["ok"], len(facts["warnings"])) == (True, 1)


def test_blocks_of_a_key_store_that_has_another_name_now_are_a_warning(run: Callable[..., Any], copy: Path) -> None:
    state = copy.parent / "state"
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(0o700)
    for name, keys in (("dev", ["a"]), ("former", ["a"]), ("unblocked", [])):
        block_table(state, name).merge(dict.fromkeys(["x", *keys], Block(1.0)), lambda _, block: block)
        block_table(state, name).update("x", lambda _: None)

    done = run("check-config", "--config", copy)

    assert done.code == 0
    assert "blocks-former.json is of a key store former, which the configuration does not name" in done.err
    assert done.err.count("state.directory: ") == 1


def test_a_witness_that_no_token_can_be_is_a_warning(run: Callable[..., Any], copy: Path) -> None:
    _change(copy, 'directory = "state"', 'directory = "state"\nwitness = "token"')
    assert run("check-config", "--config", copy).err == ""

    _change(copy, 'preset = "softhsm2"', 'preset = "nss"')

    assert 'state.witness: "token" has no effect' in run("check-config", "--config", copy).err


def test_a_token_that_can_be_no_witness_is_a_warning_of_the_live_check(spawn: Callable[..., Any], copy: Path) -> None:
    _change(copy, 'directory = "state"', 'directory = "state"\nwitness = "token"')
    text = "warning: the token is no witness of the state directory: its sessions are read-only"
    before = spawn("check-config", "--config", copy, "--live")
    assert text not in before.text

    _change(copy, 'preset = "softhsm2"', 'preset = "softhsm2"\nread_write_sessions = false')

    done = spawn("check-config", "--config", copy, "--live")
    assert text in done.text
    assert done.code == before.code


def test_what_kms_will_refuse_is_wrong_and_yet_does_not_keep_the_proxy_from_starting(
    run: Callable[..., Any], copy: Path
) -> None:
    _reissue(copy, "127.0.0.1")

    done = run("check-config", "--config", copy)

    assert done.code == 1
    assert "server.tls.certificate: localhost has no DNS name" in done.err
    assert load_checked(copy)


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_files_that_others_can_change_are_refused(run: Callable[..., Any], copy: Path, command: str) -> None:
    copy.chmod(0o666)
    (copy.parent / "tls").chmod(0o777)

    done = run(command, "--config", copy)

    assert done.code == (1 if command == "check-config" else 2)
    assert f"the configuration file: {copy}: its mode is 0666, so everyone can change it" in done.err
    assert f"server.tls.certificate: {copy.parent / 'tls'}: its mode is 0777, so everyone can change it" in done.err


def test_problems_of_certificates_credentials_and_keys_come_together(run: Callable[..., Any], copy: Path) -> None:
    _reissue(copy, "127.0.0.1")
    _change(copy, 'id = "demo-key"', 'id = ".."')
    (copy.parent / "credentials").chmod(0o777)
    (copy.parent / "pin").chmod(0o644)

    done = run("check-config", "--config", copy)

    assert done.code == 1
    for place in ("server.tls.certificate", "keystore[0].keys[0].id", "keystore[0].credentials", "hsm[0].pin"):
        assert f"  {copy}: {place}: " in done.err, place


@pytest.mark.slow
class TestLive:
    """--live on the token of all tests, each time in a separate process."""

    @pytest.fixture
    def live(self, environment: DevEnvironment, tmp_path: Path, spawn: Callable[..., Any]) -> Callable[..., Any]:
        """Run it on a configuration with one key and the changes of the test."""

        def check(keys: str, *options: str, edit: Callable[[str], str] = str) -> Any:
            shutil.copytree(
                environment.directory,
                tmp_path / "dev",
                ignore=shutil.ignore_patterns("tokens", "log", "audit", "*.partial"),
            )
            config = tmp_path / "dev" / "xksproxy.toml"
            text = config.read_text().partition("[[keystore.keys]]")[0].replace("[[keystore]]", f"[[keystore]]\n{keys}")
            config.write_text(edit(with_free_ports(text) + '\n[state]\ndirectory = "state"\n'))
            return spawn("check-config", "--config", config, "--live", *options)

        return check

    def test_a_token_with_its_keys_is_ok(self, live: Callable[..., Any]) -> None:
        done = live('keys = [{ id = "demo-key" }]')

        assert (done.code, done.err) == (0, "")
        assert "log-in, self-test and settings are ok" in done.text
        assert re.search(r"dev +demo-key +1 +primary +demo-key +AES_256 +ENCRYPT, DECRYPT +ok", done.text)

    def test_missing_and_unfit_keys_are_told_all_at_once(self, live: Callable[..., Any]) -> None:
        done = live('keys = [{ id = "absent" }, { id = "encrypt-only-key" }, { id = "decrypt-only-key" }]', "--json")

        assert done.code == 1
        facts = json.loads(done.text)
        assert facts["ok"] is False
        (hsm,) = facts["live"]
        assert {key["id"]: key["problems"] for key in hsm["keys"]} == {
            "absent": ["missing on the token"],
            "encrypt-only-key": ["CKA_DECRYPT is false; KMS needs it"],
            "decrypt-only-key": ["CKA_ENCRYPT is false; KMS needs it"],
        }

    def test_a_wrong_pin_is_tried_once_and_never_again(
        self, live: Callable[..., Any], spawn: Callable[..., Any], tmp_path: Path
    ) -> None:
        wrong = lambda text: text.replace('{ file = "pin" }', '{ env = "WRONG_PIN" }')  # noqa: E731
        os.environ["WRONG_PIN"] = "not-the-pin"
        try:
            first = live('keys = [{ id = "demo-key" }]', edit=wrong)
            second = spawn("check-config", "--config", tmp_path / "dev" / "xksproxy.toml", "--live")
        finally:
            del os.environ["WRONG_PIN"]

        assert (first.code, second.code) == (1, 1)
        assert "refuses the PIN" in first.text
        assert "was refused before and is not tried again" in second.text
        assert "not-the-pin" not in first.text + first.err + second.text + second.err

    def test_a_missing_token_is_a_problem(self, live: Callable[..., Any]) -> None:
        done = live('keys = [{ id = "demo-key" }]', edit=lambda text: text.replace('"xksproxy-dev"', '"nowhere"'))

        assert done.code == 1
        assert "softhsm, token 'nowhere': WRONG: " in done.text

    def test_no_hsm_is_used_with_an_invalid_configuration(self, live: Callable[..., Any]) -> None:
        done = live('keys = [{ id = ".." }]')

        assert (done.code, done.out) == (1, b"")


def test_an_address_in_use_is_a_warning_only_if_this_proxy_does_not_run(proxy: Proxy, tmp_path: Path) -> None:
    config = proxy.environment.config
    other = config.with_name("other-state.toml")
    other.write_text(config.read_text().replace('directory = "state"', f'directory = "{tmp_path}"'))
    try:
        own, another = (run_apart("check-config", "--config", path) for path in (config, other))
    finally:
        other.unlink()

    assert own.code == another.code == 0
    assert "another process listens there" not in own.err
    address = f"server.listen: cannot listen on 127.0.0.1:{proxy.port}: another process listens there"
    assert address in another.err
