"""`xksproxy keys` on a real token: list, show and create keys."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support import make_environment
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.state.state_file import file_lock

# Two keys with one label, one of 128 bits, some that are not exposed; then a key store with one of each kind.
_MORE_KEYS = """
import sys
from pathlib import Path
from xksproxy.config.pins import read_pin
from xksproxy.config.load import load_config
from xksproxy.state.state_file import file_lock
from xksproxy.hsm.instance.command_sessions import open_session
from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key

config = load_config(Path(sys.argv[1]))
session = open_session(config.hsm[0], read_pin(config.hsm[0]), Path(config.state.directory))._session
for label in ("twice", "twice", "unexposed", "short", "pattern-1", "other-id"):
    generate_aes_key(session, 128 if label == "short" else 256, name=ObjectName(label), encrypt=True, decrypt=True)
for object_id in (b"\\x0a\\x0b", b"\\x0c"):
    generate_aes_key(session, 256, name=ObjectName("twins", object_id), encrypt=True, decrypt=True)
"""
_WIDE = """
[[keystore]]
name = "wide"
uri_path_prefix = "/wide"
hsms = ["softhsm"]
credentials = "credentials"
keys = [
  { id = "alias", label = "demo-key" },
  { id = "twice" },
  { id = "absent" },
  { id = "other-id", label = "absent-too" },
  { id = "by-id", object_id = "0A:0B" },
  { id = "by-uri", uri = "pkcs11:object=twins;id=%%0c" },
  { id = "new-by-id", object_id = "0d" },
  { id = "encrypt-only-key", disabled = true },
  { id = "new-*" },
  { id = "new-alias", label = "new-label" },
  { id = "pattern-*", disabled = true },
  { id = "%s" },
]
"""
_LONG_ID = "long-" * 25


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> DevEnvironment:
    """A token for this module only, because `keys list` lists every key on it."""
    made = make_environment(tmp_path_factory.mktemp("keys") / "dev")
    subprocess.run([sys.executable, "-c", _MORE_KEYS, str(made.config)], check=True)
    (made.directory / "wide.toml").write_text(made.config.read_text() + _WIDE % _LONG_ID)
    return made


@pytest.fixture
def wide(home: DevEnvironment) -> tuple[str, ...]:
    """The options that choose the key store with one key of each kind."""
    return ("--config", str(home.directory / "wide.toml"), "--keystore", "wide")


@pytest.fixture
def changed(home: DevEnvironment, tmp_path: Path) -> Callable[[str, str], Path]:
    """Another configuration beside the first, with one thing changed."""

    def change(old: str, new: str) -> Path:
        text = home.config.read_text()
        assert old in text
        path = home.directory / f"{tmp_path.name}.toml"
        path.write_text(text.replace(old, new))
        return path

    return change


def _row(lines: list[str], start: str) -> list[str]:
    (row,) = (line.split() for line in lines if line.startswith(start))
    return row


def test_list_shows_every_key_of_the_token_and_whether_it_is_exposed(
    spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    done = spawn("keys", "list", "--config", home.config)

    assert (done.code, done.err) == (0, "")
    header, *lines = done.text.splitlines()
    assert header.split() == ["EXTERNAL", "KEY", "ID", "LABEL", "CKA_ID", "VERSION", "SPEC", "USAGE", "STATE"]
    assert [line.split()[0] for line in lines if line[0] != "-"] == [
        "decrypt-only-key",
        "demo-key",
        "encrypt-only-key",
        "impotent-key",
    ]
    assert _row(lines, "demo-key")[1:] == ["demo-key", "-", "1", "AES_256", "ENCRYPT,", "DECRYPT", "ENABLED"]
    assert _row(lines, "encrypt-only-key")[1:] == ["encrypt-only-key", "-", "1", "AES_256", "ENCRYPT", "ENABLED"]
    assert _row(lines, "decrypt-only-key")[1:] == ["decrypt-only-key", "-", "1", "AES_256", "DECRYPT", "ENABLED"]
    assert _row(lines, "impotent-key")[1:] == ["impotent-key", "-", "1", "AES_256", "none", "ENABLED"]
    unexposed = [line.split() for line in lines if line[0] == "-"]
    assert all(row[-2:] == ["not", "exposed"] for row in unexposed)
    assert sorted(row[1] for row in unexposed)[-6:] == ["short", "twice", "twice", "twins", "twins", "unexposed"]
    assert [row[4] for row in unexposed if row[1] == "short"] == ["AES_128"]


def test_list_finds_what_kms_could_not_use_and_exits_with_1(spawn: Callable[..., Any], wide: tuple[str, ...]) -> None:
    done = spawn("keys", "list", *wide, "--json")

    assert (done.code, done.err) == (1, "")
    rows = json.loads(done.text)
    by_id = {(row["id"], row["label"]): row for row in rows}
    assert by_id["alias", "demo-key"] == {
        "id": "alias",
        "label": "demo-key",
        "object_id": None,
        "version": 1,
        "spec": "AES_256",
        "usages": ["ENCRYPT", "DECRYPT"],
        "state": "ENABLED",
        "sensitive": True,
        "extractable": False,
    }
    assert by_id["absent", "absent"]["state"] == "missing on the token"
    assert by_id["other-id", "absent-too"]["state"] == "missing on the token"
    assert by_id["twice", "twice"]["state"] == "ambiguous: 2 keys fit twice"
    assert by_id["encrypt-only-key", "encrypt-only-key"]["state"] == "DISABLED"
    assert by_id["pattern-1", "pattern-1"]["state"] == "DISABLED"
    assert by_id[None, "unexposed"]["state"] == "not exposed"
    assert by_id[None, "other-id"]["state"] == "not exposed"
    assert ("demo-key", "demo-key") not in by_id
    assert [row["id"] is None for row in rows] == sorted(row["id"] is None for row in rows)


def test_a_table_that_is_not_for_a_terminal_has_every_row_whole(
    spawn: Callable[..., Any], wide: tuple[str, ...]
) -> None:
    done = spawn("keys", "list", *wide)

    assert done.code == 1
    assert _row(done.text.splitlines(), _LONG_ID)[1:] == [
        _LONG_ID,
        "-",
        "-",
        "-",
        "none",
        "missing",
        "on",
        "the",
        "token",
    ]


def test_list_exits_with_1_for_a_key_that_is_no_aes_256_key(
    spawn: Callable[..., Any], changed: Callable[[str, str], Path]
) -> None:
    # R-META-6, R-REQ-9: KMS refuses it, and so do our own Encrypt and Decrypt.
    done = spawn("keys", "list", "--config", changed('id = "demo-key"', 'id = "short"'))

    assert done.code == 1


def test_show_tells_what_get_key_metadata_tells(spawn: Callable[..., Any], home: DevEnvironment) -> None:
    done = spawn("keys", "show", "encrypt-only-key", "--config", home.config)

    assert (done.code, done.err) == (0, "")
    about, versions = done.text.split("\n\n")
    assert dict(line.split(maxsplit=1) for line in about.splitlines()) == {
        "id": "encrypt-only-key",
        "label": "encrypt-only-key",
        "object_id": "-",
        "version": "1",
        "spec": "AES_256",
        "usage": "ENCRYPT",
        "state": "ENABLED",
        "sensitive": "yes",
        "extractable": "no",
    }
    assert versions.splitlines()[1].split() == [
        *("1", "encrypt-only-key", "primary", "yes", "0", "4,294,967,296", "never", "never")
    ]


def test_show_prints_json_for_a_key_under_its_external_id(spawn: Callable[..., Any], wide: tuple[str, ...]) -> None:
    done = spawn("keys", "show", "alias", *wide, "--json")

    assert done.code == 0
    facts = json.loads(done.text)
    assert (facts["id"], facts["label"], facts["usages"]) == ("alias", "demo-key", ["ENCRYPT", "DECRYPT"])
    assert (facts["state"], facts["sensitive"], facts["extractable"]) == ("ENABLED", True, False)


@pytest.mark.parametrize(("key_id", "object_id"), [("by-id", "0a0b"), ("by-uri", "0c")])
def test_keys_of_one_label_are_shown_by_their_ids(
    spawn: Callable[..., Any], wide: tuple[str, ...], key_id: str, object_id: str
) -> None:
    done = spawn("keys", "show", key_id, *wide, "--json")

    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.text)
    assert (facts["label"], facts["object_id"], facts["version"]) == ("twins", object_id, 1)
    listed = json.loads(spawn("keys", "list", *wide, "--json").text)
    assert [(row["object_id"], row["state"]) for row in listed if row["id"] == key_id] == [(object_id, "ENABLED")]


def test_create_gives_a_key_its_id_and_the_external_key_id_as_label(
    spawn: Callable[..., Any], wide: tuple[str, ...]
) -> None:
    done = spawn("keys", "create", "new-by-id", *wide)

    assert done.text == "created an AES-256 key with the label new-by-id and the CKA_ID 0d\n"
    facts = json.loads(spawn("keys", "show", "new-by-id", *wide, "--json").text)
    assert (facts["label"], facts["object_id"]) == ("new-by-id", "0d")


@pytest.mark.parametrize(
    ("key_id", "complaint"),
    [("absent", "absent: "), ("twice", "twice: "), ("absent-too", "exposes no external key ")],
)
def test_show_refuses_what_is_missing_ambiguous_or_not_exposed(
    spawn: Callable[..., Any], wide: tuple[str, ...], key_id: str, complaint: str
) -> None:
    done = spawn("keys", "show", key_id, *wide)

    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith("xksproxy: ")
    assert complaint in done.err


def test_create_makes_no_key_while_another_command_makes_one(
    spawn: Callable[..., Any], wide: tuple[str, ...], home: DevEnvironment
) -> None:
    with file_lock(home.directory / "state" / "rotate.json", 1.0):
        done = spawn("keys", "create", "new-at-once", *wide)

    assert done.code == 2
    assert "another process holds its lock" in done.err
    assert spawn("keys", "show", "new-at-once", *wide).code == 1


@pytest.mark.parametrize(
    ("key_id", "usage", "usages"),
    [
        ("new-both", (), ["ENCRYPT", "DECRYPT"]),
        ("new-alias", ("--usage", "encrypt"), ["ENCRYPT"]),
        ("new-none", ("--usage", "none"), []),
    ],
)
def test_create_makes_an_aes_256_key_that_never_leaves_the_token(
    spawn: Callable[..., Any], wide: tuple[str, ...], key_id: str, usage: tuple[str, ...], usages: list[str]
) -> None:
    label = {"new-alias": "new-label"}.get(key_id, key_id)

    done = spawn("keys", "create", key_id, *usage, *wide)

    assert (done.code, done.err) == (0, "")
    assert done.text == f"created an AES-256 key with the label {label}\n"
    shown = json.loads(spawn("keys", "show", key_id, *wide, "--json").text)
    assert [version["on_token"] for version in shown.pop("versions")] == [True]
    assert shown == {
        "id": key_id,
        "label": label,
        "object_id": None,
        "version": 1,
        "spec": "AES_256",
        "usages": usages,
        "state": "ENABLED",
        "sensitive": True,
        "extractable": False,
    }


@pytest.mark.parametrize(
    ("key_id", "complaint"),
    [("alias", "the token already has a key of the name 'demo-key'"), ("demo-key", "does not expose demo-key")],
)
def test_create_makes_nothing_where_the_label_is_in_use_or_the_id_not_exposed(
    spawn: Callable[..., Any], wide: tuple[str, ...], home: DevEnvironment, key_id: str, complaint: str
) -> None:
    before = sorted((home.directory / "tokens").rglob("*.object"))

    done = spawn("keys", "create", key_id, *wide)

    assert (done.code, done.out) == (1, b"")
    assert complaint in done.err
    assert sorted((home.directory / "tokens").rglob("*.object")) == before


def test_accept_records_a_replaced_key_once_its_id_is_typed(tmp_path: Path) -> None:
    home = make_environment(tmp_path / "dev")
    records = FingerprintRecords(home.directory / "state", "dev")
    former = records.propose("demo-key", KeyFingerprint(b"abc", None))

    def accept(typed: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "xksproxy", "keys", "accept", "demo-key", "--config", str(home.config)]
        done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def recorded() -> KeyFingerprint | None:
        records.refresh()
        return records.get("demo-key")

    assert accept("yes\n")[0] == 1
    assert recorded() == former
    code, output = accept("demo-key\n")
    assert (code, "cannot be decrypted with the new one" in output) == (0, True)
    assert recorded() != former
    accepted = recorded()
    assert "nothing was changed" in accept("")[1]
    assert recorded() == accepted


def test_accept_records_that_a_key_was_removed_until_it_comes_back(tmp_path: Path) -> None:
    home = make_environment(tmp_path / "dev")
    config = home.config.read_text()
    home.config.write_text(config.replace('id = "demo-key"', 'id = "gone"'))
    records = FingerprintRecords(home.directory / "state", "dev")
    former = records.propose("gone", KeyFingerprint(b"abc", None))

    def accept(key_id: str, typed: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "xksproxy", "keys", "accept", key_id, "--config", str(home.config)]
        done = subprocess.run(command, input=typed, capture_output=True, text=True, check=False)
        records.refresh()
        return done.returncode, done.stdout + done.stderr

    assert accept("gone", "yes\n")[0] == 1
    assert [*records.expected()] == ["gone"]
    code, output = accept("gone", "gone\n")
    assert (code, "it is on record that the key with the label gone was removed" in output) == (0, True)
    assert [*records.expected()] == []
    assert records.get("gone") == replace(former, removed=True)
    assert "nothing was changed" in accept("gone", "")[1]

    home.config.write_text(config)
    wrong = records.propose("demo-key", KeyFingerprint(b"abc", None))
    assert accept("demo-key", "demo-key\n")[0] == 0
    right = records.get("demo-key")
    assert right is not None
    assert right != wrong
    records.replace("demo-key", right, replace(right, removed=True))
    assert "is back; its next removal is reported again" in accept("demo-key", "")[1]
    assert [*records.expected()] == ["demo-key"]


def test_a_wrong_pin_is_refused_without_showing_it(
    spawn: Callable[..., Any], changed: Callable[[str, str], Path]
) -> None:
    config = changed('pin = { file = "pin" }', 'pin = { env = "WRONG_PIN" }')

    done = spawn("keys", "list", "--config", config, WRONG_PIN="sesame-4711")

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("xksproxy: token 'xksproxy-dev' refuses the PIN")
    assert "some tokens lock" in done.err
    assert "sesame-4711" not in done.err


def test_a_token_that_does_not_exist_is_named(spawn: Callable[..., Any], changed: Callable[[str, str], Path]) -> None:
    done = spawn("keys", "list", "--config", changed('token = "xksproxy-dev"', 'token = "none"'))

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("xksproxy: ")
    assert "0 tokens fit 'none'" in done.err


def test_a_library_that_is_no_pkcs11_module_is_named(
    spawn: Callable[..., Any], home: DevEnvironment, changed: Callable[[str, str], Path]
) -> None:
    # It loads, and lacks C_GetFunctionList.
    module = next(line for line in home.config.read_text().splitlines() if line.startswith("module = "))
    library = _any_library()

    done = spawn("keys", "show", "demo-key", "--config", changed(module, f'module = "{library}"'))

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith(f"xksproxy: {library}: ")


def _any_library() -> str:
    """A shared object that every Python process has loaded."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in lines if "/libc.so" in line or "/libc-" in line or "ld-musl" in line)


def test_the_key_store_must_be_named_where_there_are_several(run: Callable[..., Any], home: DevEnvironment) -> None:
    done = run("keys", "list", "--config", home.directory / "wide.toml")

    assert done.code == 2
    assert "there are several key stores; choose one with --keystore: dev, wide" in done.err


def test_a_key_store_that_is_not_there_is_refused_with_those_that_are(
    run: Callable[..., Any], home: DevEnvironment
) -> None:
    done = run("keys", "create", "x", "--config", home.directory / "wide.toml", "--keystore", "no")

    assert done.code == 2
    assert "no key store has the name no; expected one of: dev, wide" in done.err


def test_a_configuration_with_problems_is_refused_before_the_token_is_touched(
    run: Callable[..., Any], changed: Callable[[str, str], Path]
) -> None:
    done = run("keys", "list", "--config", changed('"/dev"', '"/dev/"'))

    assert done.code == 2
    assert done.err.splitlines()[0] == "xksproxy: the configuration cannot be used:"
    assert "keystore[0].uri_path_prefix" in done.err


def test_an_hsm_that_the_key_store_does_not_have_is_refused_with_those_it_has(
    spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    done = spawn("keys", "list", "--hsm", "none", "--config", home.config, "--keystore", "dev")

    assert done.code == 2
    assert "it has: softhsm" in done.err
