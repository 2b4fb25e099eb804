"""Rules across fields, and the files a configuration names."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.check import check_config, secrets_of_service
from xksproxy.config.credentials import load_credentials
from xksproxy.config.inspection import inspect_config
from xksproxy.config.load import load_config
from xksproxy.config.model import Admin, Config, Hsm, Key, KeyStore, ProxyProtocol, Server, Tls
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import SecretReference


def _server(config: Config, **changes: Any) -> Config:
    return replace(config, server=replace(config.server, **changes))


def _tls(config: Config, **changes: Any) -> Config:
    return _server(config, tls=replace(config.server.tls, **changes))


def _hsm(config: Config, **changes: Any) -> Config:
    return replace(config, hsm=(replace(config.hsm[0], **changes),))


def _store(config: Config, **changes: Any) -> Config:
    return replace(config, keystore=(replace(config.keystore[0], **changes),))


def _keys(config: Config, *keys: Key) -> Config:
    return _store(config, keys=keys)


def test_the_configuration_that_xksproxy_dev_makes_has_no_problem(environment: DevEnvironment) -> None:
    assert check_config(load_config(environment.config)) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token": None}, "hsm[0]: no token is named; set token (its label), serial or uri"),
        (
            {"uri": "pkcs11:serial=12"},
            "hsm[0]: uri goes without token and serial; write them into the URI: token=…;serial=…",
        ),
    ],
)
def test_an_hsm_whose_token_is_not_named_by_one_of_the_ways_is_refused(
    sound: Config, changes: dict[str, str | None], problem: str
) -> None:
    assert check_config(_hsm(sound, **changes)) == [problem]


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (Key(id="a", object_id="xy"), 'object_id: expected CKA_ID in hexadecimal, such as "0a1b", got xy'),
        (Key(id="a", label="b", uri="pkcs11:id=%01"), "uri goes without label and object_id"),
        (Key(id="a", uri="object=b"), "expected a PKCS#11 URI that starts with pkcs11:"),
        (Key(id="a", versions={2: "pkcs11:"}), "versions.2: it names no key"),
        (Key(id="a", versions={1: "pkcs11:id=%01", 2: "pkcs11:id=%01"}), "%01 is the name of two versions"),
        (Key(id="a*", object_id="01"), "object_id: not allowed with a pattern"),
        (Key(id="a", object_id="01", versions={1: "b"}), "object_id: not allowed with versions"),
    ],
)
def test_a_key_without_a_usable_name_is_refused(sound: Config, key: Key, problem: str) -> None:
    (found,) = check_config(_keys(sound, key))

    assert found.startswith("keystore[0].keys[0]")
    assert problem in found


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:443", "[::]:443", "[::1]:8443", "localhost:8443", "127.0.0.1:1", "localhost:65535"]
)
def test_an_address_with_a_port_can_be_listened_on(sound: Config, listen: str) -> None:
    assert check_config(_server(sound, listen=listen)) == []


@pytest.mark.parametrize(
    "listen",
    [
        "443",
        ":443",
        "0.0.0.0",
        "0.0.0.0:",
        "0.0.0.0:0",
        "0.0.0.0:65536",
        "0.0.0.0:-1",
        "0.0.0.0:+443",
        "0.0.0.0:https",
        "0.0.0.0:٤٤٣",  # int() takes these digits, a socket does not
        "0.0.0.0:4 43",
        "::1:443",
        "[::1:443",
        "::1]:443",
    ],
)
def test_anything_else_is_no_address_to_listen_on(sound: Config, listen: str) -> None:
    (problem,) = check_config(_server(sound, listen=listen))

    assert problem.startswith("server.listen: expected address:port")
    assert problem.endswith(listen)


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.1/32", "192.0.2.1", "fd00::/8", "2001:db8::1/128"])
def test_a_network_of_a_load_balancer_is_accepted(sound: Config, network: str) -> None:
    assert check_config(_server(sound, proxy_protocol=ProxyProtocol(from_=(network,)))) == []


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("10.0.0.0/33", ""),
        ("10.0.0", ""),
        ("10.0.0.0-10.0.0.255", ""),
        ("example.com", ""),
        ("fd00::/8/8", ""),
        ("10.1.2.3/8", "; the network of that address is 10.0.0.0/8"),
        ("fd00::1/8", "; the network of that address is fd00::/8"),
    ],
)
def test_what_is_no_network_is_named_with_what_was_expected(sound: Config, network: str, hint: str) -> None:
    settings = ProxyProtocol(from_=("10.0.0.0/8", network))

    assert check_config(_server(sound, proxy_protocol=settings)) == [
        f"server.proxy_protocol.from[1]: expected a network such as 10.0.0.0/8 or fd00::/8, got {network}{hint}"
    ]


@pytest.mark.parametrize("host", ["proxy-1.example.com", "proxy-1", "PROXY", "a.example.", "xksproxy_1"])
def test_a_host_name_is_one_that_the_admin_listener_may_have(sound: Config, host: str) -> None:
    assert check_config(replace(sound, admin=Admin(hosts=(host,)))) == []


@pytest.mark.parametrize(
    ("host", "meant"),
    [
        ("a.example:9464", "a.example"),
        ("http://a.example", "a.example"),
        ("a/", "a"),
        *((host, None) for host in ("*.example", "a b", "[::1]", "-a", "a..b")),
    ],
)
def test_anything_else_is_no_host_name(sound: Config, host: str, meant: str | None) -> None:
    (problem,) = check_config(replace(sound, admin=Admin(hosts=("ok.example", host))))

    hint = f'; write "{meant}"' if meant else ""
    expected = "expected a host name without port, such as proxy-1.example.com"
    assert problem == f"admin.hosts[1]: {expected}, got {host}{hint}"


@pytest.mark.parametrize("key", ["certificate", "private_key"])
@pytest.mark.parametrize("name", ["none.pem", "credentials", "n" * 300, "no\0file"])
def test_a_certificate_or_key_that_is_no_file_is_named(sound: Config, tmp_path: Path, key: str, name: str) -> None:
    path = str(tmp_path / name)

    expected = f"no file {path}" if name != "credentials" else f"{path} is a directory; expected a regular file"
    assert check_config(_tls(sound, **{key: path})) == [f"server.tls.{key}: {expected}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_file_in_a_directory_that_the_user_must_not_enter_is_not_called_missing(sound: Config) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "server.pem")
        path.write_text("exists")
        os.seteuid(65534)
        try:
            problems = check_config(_tls(sound, certificate=str(path)))
        finally:
            os.seteuid(0)

    assert f"server.tls.certificate: {path}: Permission denied; user 65534 must be able to read it" in problems


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601, 0o666])
def test_a_private_key_that_others_can_reach_is_refused(sound: Config, mode: int) -> None:
    key = Path(sound.server.tls.private_key)
    key.chmod(mode)

    (problem,) = check_config(sound)
    assert problem == f"server.tls.private_key: {key}: its mode is {mode:04o}; it holds a secret, so make it 0600"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_private_key_for_owner_and_group_is_accepted(sound: Config, mode: int) -> None:
    Path(sound.server.tls.private_key).chmod(mode)

    assert check_config(sound) == []


def test_a_client_ca_or_client_names_alone_are_refused(sound: Config) -> None:
    # R-TLS-7, R-TLS-10: whoever trusts an issuer must say which subject, or any of its customers may come.
    lone_ca = _tls(sound, client_ca=sound.server.tls.certificate)
    lone_names = _tls(sound, client_names=("cks.kms.eu-west-1.amazonaws.com",))

    for config in (lone_ca, lone_names):
        (problem,) = check_config(config)
        assert problem.startswith("server.tls: client_ca and client_names go together")


def test_key_stores_that_share_a_name_or_a_prefix_are_refused(sound: Config) -> None:
    # R-URI-9: the prefix is what keeps key stores apart.
    problems = check_config(replace(sound, keystore=sound.keystore * 3))

    assert problems == [
        "keystore[1].name: payments is used twice",
        "keystore[2].name: payments is used twice",
        "keystore[1].uri_path_prefix: /payments is used twice",
        "keystore[2].uri_path_prefix: /payments is used twice",
    ]


def test_two_key_stores_without_a_prefix_are_refused_legibly(sound: Config) -> None:
    first = replace(sound.keystore[0], uri_path_prefix="")

    problems = check_config(replace(sound, keystore=(first, replace(first, name="other"))))

    assert problems == ["keystore[1].uri_path_prefix: (empty) is used twice"]


@pytest.mark.parametrize("name", ["none.so", "credentials", "n" * 300, "no\0file"])
def test_a_module_that_is_no_file_is_named(sound: Config, tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)

    expected = f"no file {path}" if name != "credentials" else f"{path} is a directory; expected a regular file"
    assert check_config(_hsm(sound, module=path)) == [f"hsm[0].module: {expected}"]


@pytest.mark.parametrize("name", ["n" * 300, "no\0file"])
def test_a_pin_file_of_an_impossible_name_is_a_problem_like_others(sound: Config, tmp_path: Path, name: str) -> None:
    (problem,) = check_config(_hsm(sound, pin=SecretReference(file=str(tmp_path / name))))

    assert problem.startswith("hsm[0].pin: ")


def test_one_module_with_two_environments_is_refused(sound: Config) -> None:
    first = replace(sound.hsm[0], environment={"SOFTHSM2_CONF": "/a"})
    second = replace(first, id="hsm-2", environment={"SOFTHSM2_CONF": "/b"})
    third = replace(first, id="hsm-3", environment={})

    assert check_config(replace(sound, hsm=(first, second, third))) == [
        "hsm[1].environment: differs from another [[hsm]] with the same module; expected the same",
        "hsm[2].environment: differs from another [[hsm]] with the same module; expected the same",
    ]


def test_one_module_with_one_environment_serves_two_tokens(sound: Config) -> None:
    first = replace(sound.hsm[0], environment={"SOFTHSM2_CONF": "/a"})

    assert check_config(replace(sound, hsm=(first, replace(first, id="hsm-2", token="other")))) == []


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        ({}, []),
        ({"pin": None}, []),
        ({"token": "other", "pin": "9999"}, []),
        ({"pin": "9999"}, ["hsm[1].pin: hsm-2 names the same token as softhsm; expected the same PIN"]),
    ],
)
def test_two_pins_of_one_token_are_refused(sound: Config, settings: dict[str, str | None], problems: list[str]) -> None:
    first = replace(sound.hsm[0], id="softhsm", pin="1234")
    config = replace(sound, hsm=(first, replace(first, id="hsm-2", **settings)))

    assert [problem for problem in check_config(config) if problem.startswith("hsm[1]")] == problems


def test_two_modules_may_have_two_environments(sound: Config, tmp_path: Path) -> None:
    (tmp_path / "other.so").write_text("content")
    second = replace(sound.hsm[0], id="hsm-2", module=str(tmp_path / "other.so"), environment={"A": "b"})

    assert check_config(replace(sound, hsm=(sound.hsm[0], second))) == []


@pytest.mark.parametrize("variable", ["", "A=B", "A\0B"])
def test_a_name_that_no_environment_variable_can_have_is_refused(sound: Config, variable: str) -> None:
    (problem,) = check_config(_hsm(sound, environment={variable: "value"}))

    assert problem.startswith("hsm[0].environment")


def test_a_value_that_no_environment_variable_can_have_is_refused(sound: Config) -> None:
    (problem,) = check_config(_hsm(sound, environment={"SOFTHSM2_CONF": "a\0b"}))

    assert problem.startswith("hsm[0].environment")


@pytest.mark.parametrize("name", ["a/b", "..\n", "n" * 65, "é"])
def test_a_key_store_whose_name_is_no_file_name_is_refused(sound: Config, name: str) -> None:
    # What is remembered of its keys stands in a file of that name.
    assert [problem.partition(":")[0] for problem in check_config(_store(sound, name=name))] == ["keystore[0].name"]


def test_a_key_id_that_comes_twice_is_refused(sound: Config) -> None:
    # R-URI-7: every external key id means one key.
    problems = check_config(_keys(sound, Key(id="a"), Key(id="b"), Key(id="a", label="other")))

    assert problems == ["keystore[0].keys[2].id: a is used twice"]


def test_two_key_stores_may_use_the_same_key_id(sound: Config) -> None:
    other = replace(sound.keystore[0], name="other", uri_path_prefix="/other")

    assert check_config(replace(sound, keystore=(*sound.keystore, other))) == []


@pytest.mark.parametrize("name", ["none", "pin", "n" * 300, "no\0directory"])
def test_a_credentials_path_that_is_not_a_directory_is_named(sound: Config, tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)

    (problem,) = check_config(_store(sound, credentials=path))

    assert problem.startswith(f"keystore[0].credentials: {path}: ")


def test_all_problems_are_reported_at_once(sound: Config, tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    broken = Config(
        server=Server(
            tls=Tls(certificate=missing, private_key=missing, client_names=("name",)),
            listen="nowhere",
        ),
        hsm=(
            Hsm(id="a", module=missing, token="t", pin=SecretReference(file=missing)),
            Hsm(id="a", module=missing, token="t", environment={"A": "b"}),
        ),
        keystore=(
            KeyStore(
                name="n",
                uri_path_prefix="bad",
                hsms=("b",),
                credentials=missing,
                keys=(Key(id="."), Key(id="."), Key(id="*", label="l")),
            ),
            KeyStore(name="n", uri_path_prefix="bad", hsms=("a",), credentials=missing, keys=(Key(id="k"),)),
        ),
    )

    places = [problem.partition(": ")[0] for problem in check_config(broken)]

    expected = [
        "server.listen",
        "server.tls.certificate",
        "server.tls.private_key",
        "server.tls",
        "hsm[1].id",
        "keystore[1].name",
        "keystore[1].uri_path_prefix",
        "hsm[0].module",
        "hsm[0].pin",
        "hsm[1].module",
        "hsm[1].environment",
        "keystore[0].uri_path_prefix",
        "keystore[0].hsms",
        "keystore[0].keys[1].id",
        "keystore[0].keys[0].id",
        "keystore[0].keys[1].id",
        "keystore[0].keys[2].label",
        "keystore[0].credentials",
        "keystore[1].uri_path_prefix",
        "keystore[1].credentials",
    ]
    assert sorted(places) == sorted(expected)


def test_checking_leaves_all_files_as_they_were(sound: Config, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    check_config(sound)

    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert load_credentials(Path(sound.keystore[0].credentials))


def test_a_credential_of_the_service_is_a_problem_for_the_service_alone(
    sound: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    config = _hsm(sound, pin=SecretReference(credential="hsm-1-pin"))

    (problem,) = check_config(config)
    assert problem.startswith("hsm[0].pin: CREDENTIALS_DIRECTORY is not set")
    assert check_config(config, "readable here") == []
    (warning,) = secrets_of_service(config)
    assert warning.startswith("hsm[0].pin: not readable here")
    assert "hsm-1-pin" in warning


def test_a_command_that_needs_no_secret_reads_none(sound: Config, tmp_path: Path) -> None:
    config = _hsm(sound, pin=SecretReference(file=str(tmp_path / "none")))

    assert check_config(config, "none") == []
    (problem,) = check_config(config, "readable here")
    assert problem.startswith("hsm[0].pin: ")
    assert list(secrets_of_service(config)) == []


def test_a_token_without_a_pin_has_none_to_read() -> None:
    assert read_pin(Hsm(id="a", module="/m", token="t")) is None


def test_an_inline_pin_and_one_by_reference_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_PIN", "1234")
    inline = read_pin(Hsm(id="a", module="/m", token="t", pin="1234"))
    referred = read_pin(Hsm(id="a", module="/m", token="t", pin=SecretReference(env="XKSPROXY_TEST_PIN")))

    assert inline is not None
    assert referred is not None
    assert inline.reveal() == referred.reveal() == "1234"


def test_a_pasted_url_arn_or_path_is_named(sound: Config) -> None:
    whole = _store(sound, uri_path_prefix="/x/kms/xks/v1")
    arn = _keys(sound, Key(id="arn:aws:kms:eu-west-1:123456789012:key/1234abcd"))
    blank = _keys(sound, Key(id="first-key "))
    name = _tls(sound, client_ca=sound.server.tls.certificate, client_names=("https://cks.kms.amazonaws.com",))

    store = _store(sound, name="payments ")
    subject = _tls(sound, client_ca=sound.server.tls.certificate, client_names=("CN=cks.kms.amazonaws.com,O=Amazon",))
    wildcard = _tls(sound, client_ca=sound.server.tls.certificate, client_names=("*.amazonaws.com",))
    home = _tls(sound, certificate="/etc/~/server.pem")
    quoted = _tls(sound, certificate='/etc/"server.pem"')

    for config, problem in (
        (store, 'a-z 0-9 - . _, got payments ; it has a blank at its beginning or end; write "payments"'),
        (subject, 'it is compared with the common name alone; write "cks.kms.amazonaws.com"'),
        (wildcard, "*.amazonaws.com: it is compared as it is, without wildcards; expected a whole common name"),
        (home, "no file /etc/~/server.pem; ~ and variables are not replaced"),
        (quoted, 'no file /etc/"server.pem"; it is in quotation marks; write "server.pem"'),
        (whole, "keystore[0].uri_path_prefix: it ends in /kms/xks/v1"),
        (arn, "it is an ARN; expected the id or name alone"),
        (blank, 'got first-key ; it has a blank at its beginning or end; write "first-key"'),
        (name, "server.tls.client_names[0]: https://cks.kms.amazonaws.com: it is a URL"),
    ):
        (found,) = check_config(config)
        assert problem in found


def test_an_audit_log_that_is_a_directory_is_refused(sound: Config, tmp_path: Path) -> None:
    config = replace(sound, audit=replace(sound.audit, file=str(tmp_path)))

    (problem,) = check_config(config)
    assert problem.startswith(f"audit.file: {tmp_path} is a directory; expected a regular file")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"file": None}, "audit.sync: it needs audit.file"),
        ({"when_full": "drop"}, 'audit.sync: it needs audit.file, audit.enabled = true and audit.when_full = "refuse"'),
        ({"enabled": False}, "audit.sync: it needs audit.file, audit.enabled = true"),
        ({"file": "/dev/null"}, "audit.sync: /dev/null is a device, which cannot be synced"),
    ],
)
def test_a_sync_that_could_not_hold_up_an_answer_is_refused(
    sound: Config, tmp_path: Path, changes: dict[str, object], problem: str
) -> None:
    audit = replace(sound.audit, file=str(tmp_path / "log"), when_full="refuse", sync=True)
    assert check_config(replace(sound, audit=audit)) == []

    assert [found[: len(problem)] for found in check_config(replace(sound, audit=replace(audit, **changes)))] == [
        problem
    ]


def test_names_on_a_token_that_hardly_end_in_a_blank_are_warnings(sound: Config) -> None:
    keys = (
        Key(id="first-key", label="first-key\u00a0"),
        Key(id="second-key", versions={1: '"second"'}),
        Key(id="last"),
    )
    config = _keys(_hsm(sound, token="production "), *keys)

    found = [finding for finding in inspect_config(config) if ".tls." not in finding.text]

    assert not any(finding.serious for finding in found)
    assert [finding.text for finding in found if "server." not in finding.text] == [
        "hsm[0].token: production : it has a blank at its beginning or end",
        "keystore[0].keys[0].label: first-key\u00a0: it has a blank at its beginning or end",
        'keystore[0].keys[1].versions: "second": it is in quotation marks',
    ]


def test_a_state_directory_with_a_name_that_is_too_long_is_refused(sound: Config, tmp_path: Path) -> None:
    config = replace(sound, state=replace(sound.state, directory=str(tmp_path / ("n" * 300) / "state")))

    (problem,) = check_config(config)

    assert problem.startswith("state.directory: ")
    assert problem.endswith(" cannot be written")
