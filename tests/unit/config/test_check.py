"""Rules across fields, and the files a configuration names."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.check import check_config, read_pin
from xksproxy.config.credentials import load_credentials
from xksproxy.config.key_names import is_pattern
from xksproxy.config.load import load_config
from xksproxy.config.model import Admin, Config, Hsm, Key, KeyStore, ProxyProtocol, Server, Tls
from xksproxy.config.secret import SecretError, SecretReference
from xksproxy.spec.limits import MAXIMUM_URI_PATH_CHARACTERS
from xksproxy.spec.uri import BASE_PATH, Operation, compose_path


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


def test_a_sound_configuration_has_no_problem(sound: Config) -> None:
    assert check_config(sound) == []


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
    "host", ["a.example:9464", "http://a.example", "*.example", "a b", "[::1]", "-a", "a..b", "a/"]
)
def test_anything_else_is_no_host_name(sound: Config, host: str) -> None:
    (problem,) = check_config(replace(sound, admin=Admin(hosts=("ok.example", host))))

    assert problem == (f"admin.hosts[1]: expected a host name without port, such as proxy-1.example.com, got {host}")


@pytest.mark.parametrize("key", ["certificate", "private_key"])
@pytest.mark.parametrize("name", ["none.pem", "credentials", "n" * 300, "no\0file"])
def test_a_certificate_or_key_that_is_no_file_is_named(sound: Config, tmp_path: Path, key: str, name: str) -> None:
    path = str(tmp_path / name)

    assert check_config(_tls(sound, **{key: path})) == [f"server.tls.{key}: no file {path}"]


def test_a_client_ca_that_is_no_file_is_named(sound: Config, tmp_path: Path) -> None:
    path = str(tmp_path / "ca.pem")

    problems = check_config(_tls(sound, client_ca=path, client_names=("cks.kms.eu-west-1.amazonaws.com",)))

    assert problems == [f"server.tls.client_ca: no file {path}"]


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


def test_a_client_ca_and_client_names_are_accepted_together(sound: Config) -> None:
    certificate = sound.server.tls.certificate

    assert check_config(_tls(sound, client_ca=certificate, client_names=("cks.kms.eu-west-1.amazonaws.com",))) == []


def test_a_client_ca_or_client_names_alone_are_refused(sound: Config) -> None:
    # R-TLS-7, R-TLS-10: whoever trusts an issuer must say which subject, or any of its customers may come.
    lone_ca = _tls(sound, client_ca=sound.server.tls.certificate)
    lone_names = _tls(sound, client_names=("cks.kms.eu-west-1.amazonaws.com",))

    for config in (lone_ca, lone_names):
        (problem,) = check_config(config)
        assert problem.startswith("server.tls: client_ca and client_names go together")


def test_an_hsm_id_that_comes_twice_is_refused(sound: Config) -> None:
    assert check_config(replace(sound, hsm=sound.hsm * 2)) == ["hsm[1].id: hsm-1 is used twice"]


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

    assert check_config(_hsm(sound, module=path)) == [f"hsm[0].module: no file {path}"]


def test_a_pin_file_that_is_missing_is_named(sound: Config, tmp_path: Path) -> None:
    path = str(tmp_path / "none")

    problems = check_config(_hsm(sound, pin=SecretReference(file=path)))

    assert problems == [f"hsm[0].pin: {path}: No such file or directory"]


@pytest.mark.parametrize("name", ["n" * 300, "no\0file"])
def test_a_pin_file_of_an_impossible_name_is_a_problem_like_others(sound: Config, tmp_path: Path, name: str) -> None:
    (problem,) = check_config(_hsm(sound, pin=SecretReference(file=str(tmp_path / name))))

    assert problem.startswith("hsm[0].pin: ")


def test_a_pin_file_that_others_can_read_is_refused(sound: Config, tmp_path: Path) -> None:
    (tmp_path / "pin").chmod(0o604)

    (problem,) = check_config(sound)

    assert problem.startswith(f"hsm[0].pin: {tmp_path / 'pin'}: its mode is 0604")


def test_a_pin_variable_that_is_not_set_is_named(sound: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XKSPROXY_TEST_PIN", raising=False)

    problems = check_config(_hsm(sound, pin=SecretReference(env="XKSPROXY_TEST_PIN")))

    assert problems == ["hsm[0].pin: the environment variable XKSPROXY_TEST_PIN is not set"]


@pytest.mark.parametrize(
    "reference",
    [SecretReference(), SecretReference(file="/pin", env="PIN"), SecretReference("/pin", "PIN", "pin")],
)
def test_a_pin_must_come_from_exactly_one_place(sound: Config, reference: SecretReference) -> None:
    (problem,) = check_config(_hsm(sound, pin=reference))

    assert problem.startswith("hsm[0].pin: expected exactly one of")


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


@pytest.mark.parametrize(
    "prefix", ["/", "payments", "/payments/", "/a.b", "//a", "/a b", "/ä", "/a%20b", "/a?b", "/a\n"]
)
def test_a_prefix_outside_the_alphabet_of_kms_is_refused(sound: Config, prefix: str) -> None:
    # R-URI-2: no period, no encoding.
    (problem,) = check_config(_store(sound, uri_path_prefix=prefix))

    assert problem.startswith("keystore[0].uri_path_prefix: expected segments of")


def test_a_prefix_is_as_long_as_kms_takes_it_and_no_longer(sound: Config) -> None:
    longest = "/" + "a" * (MAXIMUM_URI_PATH_CHARACTERS - len(BASE_PATH) - 1)

    assert MAXIMUM_URI_PATH_CHARACTERS == 128
    assert check_config(_store(sound, uri_path_prefix=longest)) == []
    (problem,) = check_config(_store(sound, uri_path_prefix=longest + "a"))
    assert problem == "keystore[0].uri_path_prefix: with /kms/xks/v1 it may have at most 128 characters"


def test_a_key_whose_uri_kms_cannot_use_is_refused(sound: Config) -> None:
    # R-URI-4, Q-11: the whole URI has at most 256 characters, so prefix and key id bind each other.
    prefix, key_id = "/" + "p" * 116, "k" * 128
    assert len(compose_path(prefix, Operation.GET_KEY_METADATA, key_id)) > 256
    assert check_config(_store(sound, uri_path_prefix=prefix)) == []
    assert check_config(_keys(sound, Key(id=key_id))) == []

    problems = check_config(_store(sound, uri_path_prefix=prefix, keys=(Key(id=key_id),)))

    assert [problem.partition(":")[0] for problem in problems] == ["keystore[0].keys[0].id"]


@pytest.mark.parametrize("name", ["a/b", "..\n", "n" * 65, "é"])
def test_a_key_store_whose_name_is_no_file_name_is_refused(sound: Config, name: str) -> None:
    # What is remembered of its keys stands in a file of that name.
    assert [problem.partition(":")[0] for problem in check_config(_store(sound, name=name))] == ["keystore[0].name"]


def test_a_key_store_on_an_hsm_that_is_not_there_is_refused(sound: Config) -> None:
    assert check_config(_store(sound, hsms=("hsm-9",))) == ["keystore[0].hsms: no [[hsm]] has the id hsm-9"]


def test_a_key_id_that_comes_twice_is_refused(sound: Config) -> None:
    # R-URI-7: every external key id means one key.
    problems = check_config(_keys(sound, Key(id="a"), Key(id="b"), Key(id="a", label="other")))

    assert problems == ["keystore[0].keys[2].id: a is used twice"]


def test_two_key_stores_may_use_the_same_key_id(sound: Config) -> None:
    other = replace(sound.keystore[0], name="other", uri_path_prefix="/other")

    assert check_config(replace(sound, keystore=(*sound.keystore, other))) == []


@pytest.mark.parametrize("key_id", ["a", "A-z.0_9", "k" * 128, "...", "-", "*", "?", "a*", "?.?", "..*", "*" * 128])
def test_a_legal_key_id_or_pattern_is_accepted(sound: Config, key_id: str) -> None:
    assert check_config(_keys(sound, Key(id=key_id))) == []


@pytest.mark.parametrize(
    "key_id", [".", "..", "k" * 129, "a b", "a/b", "ä", "a\n", "a%", "a:b", "[ab]", "a*/b", "*" * 129, "a* ", "ä?"]
)
def test_an_illegal_key_id_or_pattern_is_refused(sound: Config, key_id: str) -> None:
    # R-URI-6: "." and ".." are formally legal, but HTTP stacks normalise them away.
    (problem,) = check_config(_keys(sound, Key(id=key_id)))

    assert problem.startswith("keystore[0].keys[0].id: expected 1 to 128 characters")


@pytest.mark.parametrize("pattern", ["*", "a?"])
def test_a_pattern_cannot_have_a_label(sound: Config, pattern: str) -> None:
    problems = check_config(_keys(sound, Key(id="a"), Key(id=pattern, label="x")))

    expected = "keystore[0].keys[1].label: not allowed with a pattern, which exposes each key under its own label"
    assert problems == [expected]


def test_a_key_may_have_any_label(sound: Config) -> None:
    assert check_config(_keys(sound, Key(id="a", label="prod/ключ *?"))) == []


def test_credentials_that_cannot_be_read_are_named_one_by_one(sound: Config, tmp_path: Path) -> None:
    for name in ("one.toml", "two.toml"):
        (tmp_path / "credentials" / name).write_text("")
        (tmp_path / "credentials" / name).chmod(0o644)

    problems = check_config(sound)

    assert len(problems) == 2
    for name, problem in zip(("one.toml", "two.toml"), problems, strict=True):
        assert problem.startswith(f"keystore[0].credentials: {tmp_path / 'credentials' / name}: its mode is 0644")


@pytest.mark.parametrize("name", ["none", "pin", "n" * 300, "no\0directory"])
def test_a_credentials_directory_that_is_none_is_named(sound: Config, tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)

    (problem,) = check_config(_store(sound, credentials=path))

    assert problem.startswith(f"keystore[0].credentials: {path}: ")


def test_all_problems_are_told_at_once(sound: Config, tmp_path: Path) -> None:
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


def test_a_token_without_a_pin_has_none_to_read() -> None:
    assert read_pin(Hsm(id="a", module="/m", token="t")) is None


def test_an_inline_pin_and_one_by_reference_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_PIN", "1234")
    inline = read_pin(Hsm(id="a", module="/m", token="t", pin="1234"))
    referred = read_pin(Hsm(id="a", module="/m", token="t", pin=SecretReference(env="XKSPROXY_TEST_PIN")))

    assert inline is not None
    assert referred is not None
    assert inline.reveal() == referred.reveal() == "1234"


def test_a_pin_reference_that_leads_nowhere_raises(tmp_path: Path) -> None:
    with pytest.raises(SecretError):
        read_pin(Hsm(id="a", module="/m", token="t", pin=SecretReference(file=str(tmp_path / "none"))))


@given(st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True))
def test_no_legal_key_id_is_a_pattern(key_id: str) -> None:
    assert not is_pattern(key_id)
    assert is_pattern(key_id + "*")
    assert is_pattern("?" + key_id)


def test_what_people_paste_is_named(sound: Config) -> None:
    whole = _store(sound, uri_path_prefix="/x/kms/xks/v1")
    arn = _keys(sound, Key(id="arn:aws:kms:eu-west-1:123456789012:key/1234abcd"))
    blank = _keys(sound, Key(id="first-key "))
    name = _tls(sound, client_ca=sound.server.tls.certificate, client_names=("https://cks.kms.amazonaws.com",))

    for config, problem in (
        (whole, "keystore[0].uri_path_prefix: it ends in /kms/xks/v1"),
        (arn, "it is an ARN; expected the id or name alone"),
        (blank, "got first-key ; it has a blank at its beginning or end"),
        (name, "server.tls.client_names[0]: https://cks.kms.amazonaws.com: it is a URL"),
    ):
        (found,) = check_config(config)
        assert problem in found
