"""Commands that root runs act as the owner of the files, and nobody else may run them."""

import fcntl
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from access_lists import let
from support import with_free_ports
from xksproxy_tools.development.environment import DevEnvironment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")

OWNER, STRANGER = 65534, 65533
SECRET = b"only root reads this"


@pytest.fixture
def config(environment: DevEnvironment) -> Iterator[Path]:
    """A configuration whose files belong to an unprivileged user, in a directory that everybody can enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield _make_config(environment, Path(directory))


def _make_config(environment: DevEnvironment, base: Path) -> Path:
    home = base / "home"
    ignored = shutil.ignore_patterns("log", "*.partial", "state", "run")
    shutil.copytree(environment.directory, home, ignore=ignored)
    text = (home / "xksproxy.toml").read_text().partition('\n[[keystore]]\nname = "other"')[0] + "\n"
    # The proxy that the tests share may run at the ports of its own configuration.
    (home / "xksproxy.toml").write_text(with_free_ports(text.replace(str(environment.directory), str(home))))
    (home / "softhsm2.conf").write_text(
        (home / "softhsm2.conf").read_text().replace(str(environment.directory), str(home))
    )
    (home / "state").mkdir(0o700)
    for path in (home, *home.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    return home / "xksproxy.toml"


# Runs each command in a fork of one interpreter, which root starts, since it may be where others cannot go.
_AS_USER = """
import json, os, sys
import xksproxy.cli.block, xksproxy.cli.check_config, xksproxy.cli.credentials, xksproxy.cli.hsm, xksproxy.cli.keys
import xksproxy.cli.kms_config, xksproxy.cli.status
from xksproxy.cli.main import main

user, output, commands = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
for number, command in enumerate(commands):
    if (child := os.fork()) == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{output}/{number}.{name}", os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        sys.argv = ["xksproxy", *command]
        main()
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Done:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str


def as_user(user: int, *commands: tuple[str | Path, ...]) -> list[Done]:
    """Run commands as a user, one after another, each in its own process."""
    with tempfile.TemporaryDirectory() as output:
        arguments = json.dumps([[*map(str, command)] for command in commands])
        program = [sys.executable, "-c", _AS_USER, str(user), output, arguments]
        codes = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
        return [
            Done(int(code), *(Path(output, f"{number}.{name}").read_text() for name in ("out", "err")))
            for number, code in enumerate(codes)
        ]


def owners(directory: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(directory))] = (status.st_uid, stat.S_IMODE(status.st_mode))
    return found


COMMANDS = [
    ("block", "--key", "demo-key"),
    ("unblock", "--key", "demo-key"),
    ("check-config",),
    ("check-config", "--live"),
    ("keys", "list"),
    ("keys", "show", "demo-key"),
    ("keys", "rotate", "demo-key"),
    ("keys", "disable-version", "demo-key", "7"),
    ("keys", "enable-version", "demo-key", "7"),
    ("hsm", "allow-login", "softhsm"),
    ("credentials", "create"),
    ("credentials", "list"),
    ("credentials", "retire", "NO-SUCH-ID"),
    ("kms-config",),
]


def test_what_root_runs_leaves_only_private_files_of_the_owner(config: Path) -> None:
    ended = as_user(0, *((*command, "--config", config) for command in COMMANDS))

    for command, done in zip(COMMANDS, ended, strict=True):
        assert "Traceback" not in done.err, command
        assert done.code in (0, 1), (command, done.err)
    made = owners(config.parent)
    assert {user for user, _ in made.values()} == {OWNER}, made
    assert not [name for name, (_, mode) in made.items() if name.startswith("state") and mode & 0o077]
    events = [json.loads(path.read_text()) for path in sorted((config.parent / "state" / "audit").glob("*.json"))]
    assert [event["message"] for event in events] == [
        *("block set", "block removed", "key created", "version activated", "credential created"),
    ]
    assert {event["fields"]["user"] for event in events} == {"root"}


def test_a_stranger_is_refused_with_the_command_to_use(config: Path) -> None:
    for path in (config.parent, *config.parent.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o044))
    before = owners(config.parent)
    commands = [COMMANDS[0], COMMANDS[6], *COMMANDS[-4:]]

    ended = as_user(STRANGER, *((*command, "--config", config) for command in commands), ("status", "--config", config))

    for command, done in zip(commands, ended[:-1], strict=True):
        assert done.code == 2
        assert f"belongs to nobody, and this command runs as user {STRANGER}" in done.err
        assert f"run: sudo -u nobody xksproxy {' '.join(command)} --config {config}" in done.err
    assert "no proxy answers" in ended[-1].err
    assert owners(config.parent) == before


@pytest.mark.parametrize("denied", ["file", "directory"])
def test_a_stranger_who_cannot_read_the_configuration_is_told_the_command_to_use(
    config: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    (config if denied == "file" else config.parent).chmod(0o700)
    if denied == "file":
        config.parent.chmod(0o755)
    monkeypatch.setenv("XKSPROXY_CONFIG", str(config))  # which sudo does not pass on
    commands = (("block", "--all"), ("keys", "list"), ("status",), ("check-config",), ("credentials", "list"))

    ended = as_user(STRANGER, *commands)

    for command, done in zip(commands, ended, strict=True):
        assert done.code in (1, 2)
        assert f"{config}: Permission denied" in done.err
        assert f"run: sudo xksproxy {' '.join(command)} --config {config}" in done.err


def test_a_link_that_the_owner_made_does_not_lead_root_to_another_file(config: Path, tmp_path: Path) -> None:
    """The state directory refuses pipes and hard links in the same way: tests/unit/state/test_shared_table.py."""
    victim, state = tmp_path / "victim", config.parent / "state"
    victim.write_bytes(SECRET)
    victim.chmod(0o600)
    for name, code in (("blocks-dev.partial", 0), ("blocks-dev.json", 2), ("manifest", 2)):
        shutil.rmtree(state)
        state.mkdir(0o700)
        (state / name).symlink_to(victim)
        for path in (state, state / name):
            os.chown(path, OWNER, OWNER, follow_symlinks=False)

        (done,) = as_user(0, ("block", "--config", config))

        assert (victim.read_bytes(), victim.stat().st_uid) == (SECRET, 0)
        assert done.code == code
        assert code == 0 or name.partition(".")[0] in done.err


def _replace_by_link(directory: Path, target: Path, user: int) -> None:
    """What the owner of the parent of a directory can do."""
    directory.rename(directory.with_name(f"{directory.name}.real"))
    directory.symlink_to(target)
    os.chown(directory, user, user, follow_symlinks=False)


@pytest.mark.parametrize("changed", ["state", "state/below", "credentials"])
def test_a_link_in_place_of_a_directory_does_not_lead_root_into_a_directory_of_root(
    config: Path, tmp_path: Path, changed: str
) -> None:
    victim, home = tmp_path / "victim", config.parent
    (victim / "below").mkdir(parents=True)
    if changed == "state/below":
        (home / "state" / "below").mkdir()
        config.write_text(config.read_text().replace(f'"{home / "state"}"', f'"{home / "state" / "below"}"'))
        os.chown(home / "state" / "below", OWNER, OWNER)
    _replace_by_link(home / changed.partition("/")[0], victim, OWNER)
    before = owners(victim)
    commands = [COMMANDS[10]] if changed == "credentials" else COMMANDS[:3]

    for done in as_user(0, *((*command, "--config", config) for command in commands)):
        assert done.code == 2
        assert f"{home}: it belongs to user nobody" in done.err
    assert owners(victim) == before


@pytest.mark.parametrize("setting", ["state", "credentials"])
def test_a_configuration_of_the_owner_does_not_let_root_load_its_module_or_write_in_a_directory_of_root(
    config: Path, setting: str
) -> None:
    with tempfile.TemporaryDirectory() as root_s:
        text = re.sub(r'module = ".*"', f'module = "{root_s}/none.so"', config.read_text())
        text = text.replace(f'"{config.parent / setting}"', f'"{root_s}"').replace(f'"{setting}"', f'"{root_s}"')
        config.write_text(text.replace("[state]\n", '[state]\nwitness = "token"\n'))
        commands = {
            "credentials": [("credentials", "create"), ("credentials", "reinstate", "X")],
            "state": [("unblock",), ("state", "check"), ("keys", "list")],
        }

        for done in as_user(0, *((*command, "--config", config) for command in commands[setting])):
            assert done.code == 2
            assert f"the configuration file: {config.parent}: it belongs to user nobody" in done.err
        assert not list(Path(root_s).iterdir())


def test_a_module_of_one_user_is_not_loaded_as_another_one(config: Path) -> None:
    state = config.parent / "state"
    config.write_text(config.read_text().replace("[state]\n", '[state]\nwitness = "token"\n'))
    os.chown(config.parent, 0, 0)
    config.parent.chmod(0o755)
    os.chown(state, STRANGER, STRANGER)

    for done in as_user(0, ("unblock", "--config", config), ("state", "check", "--config", config)):
        assert done.code == 2
        assert "the configuration cannot be used" in done.err
        assert f"{config}: it belongs to user nobody, who can change it" in done.err


def test_a_link_of_a_stranger_does_not_lead_root_even_to_a_directory_of_the_owner(config: Path) -> None:
    os.chown(config.parent, 0, 0)
    _replace_by_link(config.parent / "state", config.parent / "state.real", STRANGER)

    (done,) = as_user(0, ("block", "--config", config))

    assert done.code == 2
    assert f"{config.parent / 'state'}: it belongs to user {STRANGER}" in done.err
    assert not list((config.parent / "state.real").iterdir())


def test_links_of_root_and_of_the_owner_are_followed(config: Path) -> None:
    for user in (0, OWNER):
        state = config.parent / "state"
        _replace_by_link(state, config.parent / "state.real", user)

        assert as_user(0, ("block", "--config", config))[0].code == 0
        state.unlink()
        (config.parent / "state.real").rename(state)
    assert {user for user, _ in owners(config.parent / "state").values()} == {OWNER}


def test_a_link_in_the_runtime_directory_does_not_lead_root_to_another_file(config: Path, tmp_path: Path) -> None:
    """As in the ExecReload= of a unit that runs it as root."""
    made, runtime = tmp_path / "made", config.parent / "run" / "xksproxy-1"
    runtime.mkdir(parents=True)
    (runtime / "reload.lock").symlink_to(made)
    for path in (runtime.parent, runtime, runtime / "reload.lock"):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(runtime.parent), "MAINPID": "0"}
    program = [sys.executable, "-m", "xksproxy", "reload", "--config", str(config)]
    descriptor = os.open(runtime, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # as a proxy that runs
        done = subprocess.run(
            program, env=environment, capture_output=True, text=True, timeout=60, check=False, start_new_session=True
        )
    finally:
        os.close(descriptor)

    assert done.returncode == 2
    assert f"{runtime}: Permission denied" in done.stderr
    assert not made.exists()


@pytest.mark.parametrize(
    ("place", "rights"), [("pin", 4), ("tls/server-key.pem", 4), ("credentials/*.toml", 4), ("state", 7)]
)
def test_what_an_acl_lets_a_stranger_do_is_refused_by_check_config(config: Path, place: str, rights: int) -> None:
    path = next(config.parent.glob(place))
    let(path, rights, user=STRANGER)

    (done,) = as_user(0, ("check-config", "--config", config))

    assert done.code == 1
    assert f"{path}: its ACL lets user {STRANGER} {'read' if rights == 4 else 'change'} it" in done.err


def test_the_secret_for_kms_is_read_as_the_owner_and_written_as_root(config: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.toml"
    victim.write_text('access_key_id = "AAAAAAAAAAAAAAAAAAAAAAAAAA"\nsecret_access_key = "' + "s" * 43 + '"\n')
    victim.chmod(0o600)
    out = tmp_path / "out.json"

    (done,) = as_user(0, ("kms-config", "--out", out, "--config", config))
    assert done.code == 0
    assert (out.stat().st_uid, stat.S_IMODE(out.stat().st_mode)) == (0, 0o600)

    (config.parent / "credentials" / "planted.toml").symlink_to(victim)
    (done,) = as_user(0, ("kms-config", "--credential", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "--config", config))
    assert done.code == 2
    assert "s" * 43 not in done.out + done.err


def test_a_directory_of_root_belongs_to_the_owner_of_the_manifest(config: Path) -> None:
    """As on a volume of Kubernetes."""
    assert as_user(0, ("block", "--config", config))[0].code == 0
    os.chown(config.parent / "state", 0, OWNER)
    (config.parent / "state").chmod(0o770)

    assert as_user(0, ("unblock", "--config", config))[0].code == 0
    assert as_user(OWNER, ("block", "--config", config))[0].code == 0
    assert {user for user, _ in owners(config.parent / "state").values()} == {OWNER}


def test_credentials_that_belong_to_root_are_changed_and_read_by_the_service(config: Path) -> None:
    directory = config.parent / "credentials"
    os.chown(config.parent, 0, OWNER)
    config.parent.chmod(0o755)
    for path in (config, directory, *directory.iterdir()):
        os.chown(path, 0, OWNER)
        path.chmod(0o750 if path.is_dir() else 0o640)

    listed, created = as_user(
        0, ("credentials", "list", "--config", config), ("credentials", "create", "--config", config)
    )
    assert (listed.code, created.code) == (0, 0), listed.err + created.err
    (new,) = {path.stem for path in directory.iterdir()} - set(listed.out.split())
    (checked,) = as_user(OWNER, ("check-config", "--config", config))
    assert checked.code == 0, checked.err
    (retired,) = as_user(0, ("credentials", "retire", "--force", new, "--config", config))
    assert retired.code == 0, retired.err
    assert {user for name, (user, _) in owners(config.parent).items() if name.startswith("state")} == {OWNER}
    events = [json.loads(path.read_text()) for path in sorted((config.parent / "state" / "audit").glob("*.json"))]
    assert [event["message"] for event in events] == ["credential created", "credential retired"]


def test_no_credential_is_made_or_retired_where_the_state_directory_belongs_to_another_user(config: Path) -> None:
    credentials = config.parent / "credentials"
    (created,) = as_user(0, ("credentials", "create", "--json", "--config", config))
    os.chown(config.parent / "state", STRANGER, STRANGER)
    before = sorted(credentials.iterdir())

    (done,) = as_user(
        0, ("credentials", "retire", "--force", json.loads(created.out)["access_key_id"], "--config", config)
    )

    (more,) = as_user(0, ("credentials", "create", "--config", config))

    assert (done.code, more.code) == (2, 2), (done, more)
    assert sorted(credentials.iterdir()) == before
