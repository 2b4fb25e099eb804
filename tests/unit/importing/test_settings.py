"""Reading the sample's settings: typed, refused by file and key, unknown keys told, secrets hidden."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from importing_support import ACCESS_KEY_ID, PIN, SECRET, SETTINGS, changed

from xksproxy.importing.plan import make_plan
from xksproxy.importing.render import render_config
from xksproxy.importing.settings import SettingsError, read_settings

Written = Callable[[str | bytes], Path]


def _problem(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(path)
    (problem,) = caught.value.problems
    start = f"{path}: "
    assert problem.startswith(start)
    return problem.removeprefix(start)


def test_values_arrive_and_secrets_hide(written: Written) -> None:
    file = read_settings(written(SETTINGS))

    settings = file.settings
    assert file.unknown_keys == ()
    assert (settings.server.ip, settings.server.port, settings.server.port_http_ping) == ("192.0.2.7", 8443, 8080)
    assert settings.pkcs11.hsm_module == "/opt/lib/libsofthsm2.so"
    assert settings.pkcs11.user_pin.reveal() == PIN
    (store,) = settings.external_key_stores
    assert store.sigv4_secret_access_key.reveal() == SECRET
    assert store.xks_key_id_set == {"key-a", "key-b"}
    for secret in (PIN, SECRET, ACCESS_KEY_ID):
        assert secret not in repr(file)


def test_the_ping_port_is_80_where_it_is_not_set(written: Written) -> None:
    assert read_settings(written(changed(("port_http_ping = 8080\n", "")))).settings.server.port_http_ping == 80


def test_keys_and_tables_that_the_sample_does_not_have_are_told(written: Written) -> None:
    text = changed(
        ('ip = "192.0.2.7"', 'ip = "192.0.2.7"\nqueue = 7'),
        ("xks_key_id_set", '"a\\nb" = 1\nxks_key_id_set'),
    )

    file = read_settings(written(text + "[opa]\nurl = 'x'\n"))

    assert file.unknown_keys == ("server.queue", 'external_key_stores."a\\nb"', "opa")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("port = 8443", 'port = "8443"', "server.port: Expected `int`, got `str`"),
        ("port = 8443", "port = 70000", "server.port: Expected `int` <= 65535"),
        ("port = 8443\n", "", "server: missing key `port`"),
        ('"192.0.2.7"', '"kms.example"', 'server.ip: expected an IP address, got "kms.example"'),
        ("is_tls_enabled = true", "is_tls_enabled = 1", "security.is_tls_enabled: Expected `bool`, got `int`"),
        (f'user_pin = "{PIN}"', "user_pin = 4711", "pkcs11.user_pin: Expected `str`, got `int`"),
        (f'"{SECRET}"', "[1]", "external_key_stores[0].sigv4_secret_access_key: Expected `str`, got `list`"),
        ('["key-b", "key-a"]', '"key-b"', "external_key_stores[0].xks_key_id_set: Expected `array`, got `str`"),
        ("[[external_key_stores]]", "[external_key_stores]", "external_key_stores: Expected `array`, got a table"),
        (
            "[hsm_capabilities]\ncan_generate_iv = false\nis_zero_iv_required = false\n",
            "",
            "missing key `hsm_capabilities`",
        ),
        (
            "port = 8443",
            'port = 8443\nciphertext_metadata_b64 = "no base 64"',
            "server.ciphertext_metadata_b64: Invalid base64 encoded string",
        ),
        (
            "port = 8443",
            f'port = 8443\nciphertext_metadata_b64 = "{"A" * 28}"',
            "server.ciphertext_metadata_b64: Expected `bytes` of length <= 20",
        ),
        ("[tls]", "[limits]\nmax_aad_in_base64 = []\n[tls]", "limits.max_aad_in_base64: Expected `int | null`"),
    ],
)
def test_what_is_missing_or_of_a_wrong_type_is_named_with_its_place(
    written: Written, old: str, new: str, problem: str
) -> None:
    assert _problem(written(changed((old, new)))).startswith(problem)


def test_a_file_without_key_stores_is_refused(written: Written) -> None:
    text = "external_key_stores = []\n" + SETTINGS.partition("[[external_key_stores]]")[0]

    assert _problem(written(text)) == "external_key_stores: Expected `array` of length >= 1"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "it is not UTF-8 text"),
        (f'[pkcs11]\nuser_pin = "{PIN}', "not TOML"),
        ("a = " + "[" * 100_000, "its values are nested too deeply"),
        ("a = " + "9" * 5000, "not TOML"),
        (b"#" * (1024 * 1024 + 1), "it has more than 1048576 bytes"),
    ],
)
def test_what_is_no_toml_is_refused_without_being_quoted(written: Written, content: str | bytes, problem: str) -> None:
    told = _problem(written(content))

    assert told.startswith(problem)
    assert PIN not in told


def test_a_file_that_is_missing_endless_or_a_directory_is_refused(tmp_path: Path) -> None:
    assert _problem(tmp_path / "none.toml") == "No such file or directory"
    assert _problem(tmp_path) == "it is a directory; expected a regular file"
    assert _problem(Path("/dev/zero")) == "it is a device; expected a regular file"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=3,
)


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_as_toml, value))}]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value) + '"'
    return str(value)


def _survives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "settings.toml")
        path.write_bytes(content)
        with suppress(SettingsError):
            render_config(make_plan(read_settings(path), Path("/srv/sample"), None))


@given(st.integers(0, SETTINGS.count(" = ") - 1), _VALUES)
def test_no_value_anywhere_makes_it_fail_otherwise_than_by_a_refusal(index: int, value: object) -> None:
    lines = SETTINGS.splitlines()
    places = [number for number, line in enumerate(lines) if " = " in line]
    key = lines[places[index]].partition(" = ")[0]
    lines[places[index]] = f"{key} = {_as_toml(value)}"
    _survives("\n".join(lines).encode("utf-8", "replace"))
