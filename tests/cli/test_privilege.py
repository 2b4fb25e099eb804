"""Commands that root runs act as the owner of the files, and nobody else may run them."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
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
    (home / "xksproxy.toml").write_text(text.replace(str(environment.directory), str(home)))
    (home / "softhsm2.conf").write_text(
        (home / "softhsm2.conf").read_text().replace(str(environment.directory), str(home))
    )
    (home / "state").mkdir(0o700)
    for path in (home, *home.rglob("*")):
        os.chown(path, OWNER, OWNER, follow_symlinks=False)
    return home / "xksproxy.toml"


_AS_USER = """
import os, sys
from xksproxy.cli.main import main
user = int(sys.argv.pop(1))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
sys.argv[0] = "xksproxy"
main()
"""


def as_user(user: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user. The interpreter is started by root, since it may be where others cannot go."""
    command = [sys.executable, "-c", _AS_USER, str(user), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_root_runs_leaves_only_private_files_of_the_owner(config: Path, command: tuple[str, ...]) -> None:
    done = as_user(0, *command, "--config", config)

    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1), done.stderr
    made = owners(config.parent)
    assert {user for user, _ in made.values()} == {OWNER}, made
    assert not [name for name, (_, mode) in made.items() if name.startswith("state") and mode & 0o077]


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[6], *COMMANDS[-4:]], ids=" ".join)
def test_a_stranger_is_refused_with_the_command_to_use(config: Path, command: tuple[str, ...]) -> None:
    for path in (config.parent, *config.parent.rglob("*")):
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o044))
    before = owners(config.parent)

    done = as_user(STRANGER, *command, "--config", config)

    assert done.returncode == 2
    assert f"belongs to nobody, and this command runs as user {STRANGER}" in done.stderr
    assert f"run: sudo -u nobody xksproxy {' '.join(command)} --config {config}" in done.stderr
    assert owners(config.parent) == before


@pytest.mark.parametrize("name", ["blocks-dev.json", "blocks-dev.lock", "blocks-dev.partial", "manifest"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_the_owner_planted_does_not_lead_root_anywhere(config: Path, tmp_path: Path, name: str, kind: str) -> None:
    victim, planted = tmp_path / "victim", config.parent / "state" / name
    victim.write_bytes(SECRET)
    victim.chmod(0o600)
    if kind == "link":
        planted.symlink_to(victim)
    else:
        os.mkfifo(planted)
    os.chown(planted, OWNER, OWNER, follow_symlinks=False)

    done = as_user(0, "block", "--config", config)

    assert victim.read_bytes() == SECRET
    assert victim.stat().st_uid == 0
    if name.endswith(".partial"):
        assert done.returncode == 0
    else:
        assert done.returncode == 2
        assert name.partition(".")[0] in done.stderr


def test_the_secret_for_kms_is_read_as_the_owner_and_written_as_root(config: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim.toml"
    victim.write_text('access_key_id = "AAAAAAAAAAAAAAAAAAAAAAAAAA"\nsecret_access_key = "' + "s" * 43 + '"\n')
    victim.chmod(0o600)
    out = tmp_path / "out.json"

    assert as_user(0, "kms-config", "--out", out, "--config", config).returncode == 0
    assert (out.stat().st_uid, stat.S_IMODE(out.stat().st_mode)) == (0, 0o600)

    (config.parent / "credentials" / "planted.toml").symlink_to(victim)
    done = as_user(0, "kms-config", "--credential", "AAAAAAAAAAAAAAAAAAAAAAAAAA", "--config", config)
    assert done.returncode == 2
    assert "s" * 43 not in done.stdout + done.stderr


def test_status_asks_for_no_rights(config: Path) -> None:
    config.parent.chmod(0o755)
    config.chmod(0o644)

    done = as_user(STRANGER, "status", "--config", config)

    assert "no proxy answers" in done.stderr


def test_a_directory_of_root_belongs_to_the_owner_of_the_manifest(config: Path) -> None:
    """As on a volume of Kubernetes."""
    assert as_user(0, "block", "--config", config).returncode == 0
    os.chown(config.parent / "state", 0, OWNER)
    (config.parent / "state").chmod(0o770)

    assert as_user(0, "unblock", "--config", config).returncode == 0
    assert as_user(OWNER, "block", "--config", config).returncode == 0
    assert {user for user, _ in owners(config.parent / "state").values()} == {OWNER}
