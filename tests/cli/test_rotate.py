"""`xksproxy keys rotate` and related commands on real tokens, each in a separate process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import make_environment
from xksproxy_tools.development.environment import DevEnvironment, open_environment

_NSS_MODULES = ("/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so")

_RUN_ON_TOKEN = """
import sys
from pathlib import Path
from pkcs11 import Attribute, KeyType, ObjectClass
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.command_sessions import open_sessions
from xksproxy.hsm.keys import Sealed
from xksproxy.state.usage import UsageBook
config = load_config(Path(sys.argv[1]))
sessions = open_sessions(config.hsm, Path(config.state.directory), UsageBook(Path(config.state.directory)))
"""

_SLOW_KEY_MAKING = """
import sys, time
from xksproxy.hsm.instance import session
make = session.generate_aes_key
def make_slowly(*arguments, name, **more):
    if name is not None:
        print("making the key", flush=True)
        time.sleep(3)
    return make(*arguments, name=name, **more)
session.generate_aes_key = make_slowly
from xksproxy.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> DevEnvironment:
    """A development environment with a token, made once."""
    return make_environment(tmp_path_factory.mktemp("original") / "dev")


@pytest.fixture
def home(original: DevEnvironment, tmp_path: Path) -> DevEnvironment:
    """A copy of it that the test may change."""
    copy = tmp_path / "dev"
    shutil.copytree(original.directory, copy)
    for name in ("xksproxy.toml", "softhsm2.conf"):
        (copy / name).write_text((copy / name).read_text().replace(str(original.directory), str(copy)))
    return open_environment(copy, None, 0)


@pytest.fixture
def rotate(spawn: Callable[..., Any], home: DevEnvironment) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        return spawn("keys", "rotate", "demo-key", *arguments, "--config", home.config)

    return run


def shown(spawn: Callable[..., Any], home: DevEnvironment, *arguments: str) -> dict[int, dict[str, Any]]:
    done = spawn("keys", "show", "demo-key", "--json", *arguments, "--config", home.config)
    assert done.code == 0, done.err
    return {version["version"]: version for version in json.loads(done.text)["versions"]}


def on_tokens(home: DevEnvironment, code: str) -> str:
    """Run code with a session on each HSM, in a separate process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN_ON_TOKEN + code, str(home.config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_rotation_prints_its_steps(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    done = rotate()

    assert (done.code, done.err) == (0, "")
    assert done.text.splitlines() == [
        "created version 2 of demo-key, the label demo-key.v2",
        "verified: each HSM has the same key and decrypts with it: softhsm",
        "version 2 is primary",
        "older versions still decrypt; list them with: xksproxy keys show demo-key",
        "no proxy runs on this machine with this state directory; the next one that starts uses the change",
    ]
    versions = shown(spawn, home)
    assert {number: version["role"] for number, version in versions.items()} == {1: "decrypts", 2: "primary"}
    assert {number: version["on_token"] for number, version in versions.items()} == {1: True, 2: True}
    # Only the canary: the rest of the reservation is returned.
    assert versions[2]["encryptions"] == 1


def test_a_rotation_prints_json_and_its_version_is_listed_under_the_external_key(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    facts = json.loads(rotate("--json").text)

    assert re.fullmatch(r"2:[A-Za-z0-9+/=]{60,64}", facts.pop("proof"))
    assert facts == {"version": 2, "label": "demo-key.v2", "made": True, "primary": 2}
    rows = json.loads(spawn("keys", "list", "--json", "--config", home.config).text)

    assert [(row["label"], row["version"]) for row in rows if row["id"] == "demo-key"] == [
        ("demo-key", 1),
        ("demo-key.v2", 2),
    ]


def test_a_version_is_prepared_and_activated_later_or_abandoned(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    prepared = rotate("--prepare")
    assert (prepared.code, prepared.text.splitlines()[-1]) == (0, "  xksproxy keys rotate demo-key --activate")
    assert [item["role"] for item in shown(spawn, home).values()] == ["primary", "prepared"]
    abandoned = rotate("--abandon")
    assert abandoned.text.startswith("version 2 of demo-key is abandoned; version 1 is still primary\n")
    assert [item["role"] for item in shown(spawn, home).values()] == ["primary", "abandoned"]
    assert rotate("--abandon").code == 1
    assert rotate("--abandon", "--prepare").code == 2

    assert "created version 3" in rotate("--prepare").text
    assert rotate("--activate").code == 0

    assert [item["role"] for item in shown(spawn, home).values()] == ["decrypts", "abandoned", "primary"]
    assert {item["extractable"] for item in shown(spawn, home).values()} == {False}


@pytest.mark.parametrize("key_id", ["no-such-key", "demo-key.v2", "DEMO-KEY"])
def test_a_key_that_is_not_exposed_is_not_rotated(run: Callable[..., Any], home: DevEnvironment, key_id: str) -> None:
    done = run("keys", "rotate", key_id, "--config", home.config)

    assert (done.code, done.out) == (1, b"")
    assert done.err == f"xksproxy: the key store dev exposes no external key {key_id}\n"


def test_of_several_machines_each_prepares_before_one_activates(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    text = home.config.read_text().replace("workers = 2", "workers = 2\nfleet_size = 2")
    home.config.write_text(text)
    other = home.config.with_name("other.toml")
    other.write_text(text.replace('directory = "state"', 'directory = "other-state"'))

    early = rotate("--activate")
    first = rotate()
    assert (early.code, early.err.splitlines()[0]) == (
        1,
        "xksproxy: no version of demo-key is prepared on this machine",
    )
    assert "version 1 is still primary" in first.text
    assert shown(spawn, home)[2]["role"] == "prepared"
    (proof,) = re.findall(r"--proof (\S+)", first.text)
    second = spawn("keys", "rotate", "demo-key", "--proof", proof, "--config", other)
    assert second.text.splitlines()[0] == "found version 2 of demo-key, the label demo-key.v2"

    for config in (home.config, other):
        done = spawn("keys", "rotate", "demo-key", "--activate", "--config", config)
        assert (done.code, done.text.splitlines()[2][:20]) == (0, "version 2 is primary")
    assert shown(spawn, home)[2]["maximum_encryptions"] == 2**31


def test_who_abandons_a_version_is_told_to_keep_its_key_while_another_machine_may_encrypt_with_it(
    rotate: Callable[..., Any], home: DevEnvironment
) -> None:
    rotate("--prepare")
    alone = rotate("--abandon")
    home.config.write_text(home.config.read_text().replace("workers = 2", "workers = 2\nfleet_size = 2"))
    rotate()
    among_others = rotate("--abandon")

    assert "you can remove that" in alone.text
    assert "keep its key unless no other machine has activated it" in among_others.text
    assert "you can remove" not in among_others.text


def test_nothing_is_activated_that_was_not_prepared(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    alone = rotate("--activate")
    home.config.write_text(home.config.read_text().replace("workers = 2", "workers = 2\nfleet_size = 2"))
    rotate()
    other = rotate("--version", "1", "--activate")

    assert (alone.code, other.code) == (1, 1)
    assert alone.err.startswith("xksproxy: no version of demo-key is prepared on this machine\n")
    assert other.err.startswith("xksproxy: version 1 of demo-key is not prepared on this machine\n")
    assert shown(spawn, home)[1]["role"] == "primary"


def test_a_version_that_does_not_exist_is_not_disabled(run: Callable[..., Any], home: DevEnvironment) -> None:
    done = run("keys", "disable-version", "demo-key", "99", "--config", home.config)

    assert (done.code, done.err) == (
        1,
        "xksproxy: version 99 of demo-key was never used or prepared on this machine\n",
    )


def test_a_configuration_without_the_primary_version_is_refused(
    rotate: Callable[..., Any], run: Callable[..., Any], home: DevEnvironment
) -> None:
    text, named = home.config.read_text(), 'id = "demo-key"\n'
    home.config.write_text(text.replace(named, named + 'versions = { 1 = "demo-key", 2 = "young" }\n'))
    assert rotate().code == 0
    home.config.write_text(text.replace(named, named + 'versions = { 1 = "demo-key" }\n'))

    done = run("check-config", "--config", home.config)

    assert done.code == 1
    assert (
        "keystore[0].keys: version 2 of demo-key is primary on this machine, but versions does not list it" in done.err
    )


def test_a_version_that_decrypted_recently_is_not_disabled_without_force(
    rotate: Callable[..., Any], run: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    rotate()
    usage = home.directory / "state" / "usage" / "key-demo-key.json"
    usage.write_text(json.dumps({"label": "demo-key", "encryptions": 5, "last_decrypted": time.time() - 86_400}))

    refused = run("keys", "disable-version", "demo-key", "1", "--config", home.config)
    after_a_day = run("keys", "disable-version", "demo-key", "1", "--recent", "0.9", "--config", home.config)

    assert refused.code == 1
    assert "version 1 of demo-key last decrypted 1.0 days ago" in refused.err
    assert (after_a_day.code, after_a_day.err) == (0, "")
    assert shown(spawn, home)[1]["role"] == "disabled"
    assert run("keys", "enable-version", "demo-key", "1", "--config", home.config).code == 0
    assert shown(spawn, home)[1]["role"] == "decrypts"
    forced = run("keys", "disable-version", "demo-key", "1", "--force", "--config", home.config)
    assert forced.code == 0
    assert run("keys", "disable-version", "demo-key", "2", "--force", "--config", home.config).code == 1


def test_unreadable_state_is_refused_and_kept(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    path = home.directory / "state" / "versions-dev.json"
    path.write_text("{")

    done = rotate()

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith(f"xksproxy: the state directory cannot be used: {path}: ")
    assert path.read_text() == "{"
    assert on_tokens(home, "print(len(sessions['softhsm'].list_keys()))") == "4\n"


def test_two_key_stores_with_one_label_do_not_make_two_keys_of_it_at_once(
    spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    text = home.config.read_text()
    store = text[text.index("[[keystore]]") : text.index("[state]")]
    other = store.replace('name = "dev"', 'name = "other"').replace('"/dev"', '"/other"')
    home.config.write_text(text.replace("[state]", f"{other}[state]", 1))
    first = subprocess.Popen(
        [sys.executable, "-c", _SLOW_KEY_MAKING, "keys", "rotate", "demo-key", "--keystore", "dev"],
        env={**os.environ, "XKSPROXY_CONFIG": str(home.config)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    assert first.stdout.readline() == "making the key\n"

    second = spawn("keys", "rotate", "demo-key", "--keystore", "other", "--config", home.config)

    first.communicate(timeout=60)
    assert (first.returncode, second.code) == (0, 2)
    assert "another process holds its lock" in second.err
    assert spawn("keys", "rotate", "demo-key", "--keystore", "other", "--config", home.config).code == 0


def test_two_rotations_at_once_do_not_mix(home: DevEnvironment) -> None:
    command = [sys.executable, "-m", "xksproxy", "keys", "rotate", "demo-key", "--config", str(home.config)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]

    ended = [(*process.communicate(), process.returncode) for process in running]

    assert any(code == 0 for _, _, code in ended)
    assert all(code == 0 or "another process holds its lock" in err for _, err, code in ended)
    labels = on_tokens(home, "print(*sorted(key.label for key in sessions['softhsm'].list_keys()))").split()
    assert len(labels) == len(set(labels))


@pytest.mark.slow
def test_a_rotation_killed_at_any_moment_can_be_run_again(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    command = [sys.executable, "-m", "xksproxy", "keys", "rotate", "demo-key", "--config", str(home.config)]
    for moment in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.25 + 0.03 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()

    # A kill inside the token's key making leaves a key that cannot be used, which one refusal names.
    done = [rotate(), rotate()]
    assert 0 in [one.code for one in done], [one.err for one in done]
    versions = shown(spawn, home)
    assert sum(version["role"] == "primary" for version in versions.values()) == 1
    assert all(version["on_token"] for version in versions.values())
    labels = on_tokens(home, "print(*sorted(key.label for key in sessions['softhsm'].list_keys()))").split()
    assert len(labels) == len(set(labels))


def _add_second_hsm(home: DevEnvironment, table: str) -> None:
    text = home.config.read_text().replace('hsms = ["softhsm"]', 'hsms = ["softhsm", "second"]')
    home.config.write_text(text.replace("[[keystore]]", f'[[hsm]]\nid = "second"\n{table}\n\n[[keystore]]', 1))


_MAKE_WRAPPING_KEY = """
for session in sessions.values():
    session.binding.create_object({
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.VALUE: bytes(range(32)),
        Attribute.LABEL: "wrapping", Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.SENSITIVE: True,
        Attribute.WRAP: True, Attribute.UNWRAP: True,
    })
"""


@pytest.fixture
def with_nss(home: DevEnvironment) -> DevEnvironment:
    """The same with a second HSM of another vendor, and a wrapping key on both."""
    database = home.directory / "nss"
    database.mkdir()
    pin = home.directory / "nss-pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    subprocess.run(["certutil", "-N", "-d", f"sql:{database}", "-f", str(pin)], check=True)
    module = next(path for path in _NSS_MODULES if Path(path).exists())
    parameters = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    table = f'module = "{module}"\ntoken = "NSS Certificate DB"\npreset = "nss"\npin = {{ file = "nss-pin" }}'
    _add_second_hsm(home, f'{table}\ninitialize_string = "{parameters}"')
    on_tokens(home, _MAKE_WRAPPING_KEY)
    return home


def test_a_new_version_is_copied_in_wrapped_form_to_an_hsm_of_another_make(
    rotate: Callable[..., Any], with_nss: DevEnvironment
) -> None:
    done = rotate("--copy-with", "wrapping")

    assert (done.code, done.err) == (0, "")
    told = on_tokens(
        with_nss,
        """
sealed = sessions["softhsm"].encrypt("demo-key.v2", b"text", b"aad")
print(sessions["second"].decrypt("demo-key.v2", sealed, b"aad").decode())
for session in sessions.values():
    key = session.describe_key("demo-key.v2")
    print(key.spec, key.sensitive, key.extractable)
""",
    )
    assert told.splitlines() == ["text", "AES_256 True False", "AES_256 True False"]


def test_a_copy_that_its_token_does_not_describe_as_aes_256_is_removed_and_never_primary(
    rotate: Callable[..., Any], spawn: Callable[..., Any], home: DevEnvironment
) -> None:
    """SoftHSM2 does not report the length of an unwrapped key."""
    second = home.directory / "second"
    shutil.copytree(home.directory / "tokens", second / "tokens")
    module = shutil.copy(re.search(r'module = "(.*)"', home.config.read_text())[1], second / "softhsm.so")  # type: ignore[index]
    conf = second / "softhsm2.conf"
    conf.write_text((home.directory / "softhsm2.conf").read_text().replace(str(home.directory), str(second)))
    table = f'module = "{module}"\ntoken = "xksproxy-dev"\npreset = "softhsm2"\npin = {{ file = "pin" }}'
    _add_second_hsm(home, f'{table}\nenvironment = {{ SOFTHSM2_CONF = "{conf}" }}')
    on_tokens(home, _MAKE_WRAPPING_KEY)

    done = rotate("--copy-with", "wrapping")

    assert done.code == 1
    assert "cannot be copied from softhsm to second" in done.err
    assert "the key was destroyed again" in done.err
    assert shown(spawn, home)[1]["role"] == "primary"
    assert 2 not in {n for n, version in shown(spawn, home, "--hsm", "second").items() if version["on_token"]}
