"""What is no regular file, under each name that is read or written, is refused by name, and nothing waits for it."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from commands import start_command
from server_support import AUDIT_KEY, OwnProxy, assert_serving, stop
from support import PATIENCE_SECONDS, with_free_ports
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.load import load_config

pytestmark = pytest.mark.slow


def make_socket(path: Path) -> None:
    short = Path(tempfile.mkdtemp()) / "socket"  # its name may have 107 bytes at most
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short))
    short.rename(path)
    short.parent.rmdir()


KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "directory": Path.mkdir,
}

PLACES = (
    "xksproxy.toml",
    "tls/server.pem",
    "tls/server-key.pem",
    "tls/ca.pem",
    "pin",
    "policy.cedar",
    "audit-key",
    "audit.log",
    "module.so",
    "credentials/planted.toml",
)


@contextmanager
def planted(path: Path, kind: str) -> Iterator[None]:
    """Something of this kind in place of a file, which is put back at the end."""
    kept = path.with_name(f"{path.name}-kept")
    if path.exists():
        path.rename(kept)
    KINDS[kind](path)
    try:
        yield
    finally:
        path.rmdir() if kind == "directory" else path.unlink()
        if kept.exists():
            kept.rename(path)


def run(*arguments: str | Path) -> CompletedProcess[str]:
    """Run a command, which must end."""
    with tempfile.TemporaryFile() as output:
        code = start_command(arguments, output, output).wait(PATIENCE_SECONDS)
        output.seek(0)
        text = output.read().decode()
    assert "Traceback" not in text, text
    return CompletedProcess(arguments, code, text)


def with_every_file(text: str, home: Path, module: str) -> str:
    """The text of a configuration that names a file of each kind in ``home``."""
    (home / "audit-key").write_text(AUDIT_KEY)
    (home / "audit-key").chmod(0o600)
    (home / "policy.cedar").write_text("permit(principal, action, resource);")
    shutil.copy(module, home / "module.so")
    audit = '[audit]\nfile = "audit.log"\nchain = true\nkey = { file = "audit-key" }\n'
    text = re.sub(r'(?s)\[audit\]\nformat = "console"\n', audit, text)
    text = re.sub(r'(?m)^module = ".*"$', 'module = "module.so"', text)
    text = text.replace("[server.tls]", '[server.tls]\nclient_ca = "tls/ca.pem"\nclient_names = ["localhost"]')
    return text.replace("[[keystore]]", '[[keystore]]\npolicies = ["policy.cedar"]', 1)


@pytest.fixture
def config(environment: DevEnvironment, tmp_path: Path) -> Path:
    """A configuration that names a file of each kind, and whose proxy does not run."""
    home = tmp_path / "home"
    ignored = shutil.ignore_patterns("tokens", "log", "*.partial", "state")
    shutil.copytree(environment.directory, home, ignore=ignored)
    (home / "state").mkdir(0o700)
    path = home / "xksproxy.toml"
    module = load_config(environment.config).hsm[0].module
    path.write_text(with_every_file(with_free_ports(environment.config.read_text()), home, module))
    assert run("check-config", "--config", path).returncode == 0
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_named_file_is_refused_by_name_in_check_config_and_at_the_start(config: Path, place: str, kind: str) -> None:
    if (place, kind) == ("audit.log", "endless device"):
        pytest.skip("an audit log may go to a device")
    with planted(config.parent / place, kind):
        checked = run("check-config", "--config", config)
        started = run("serve", "--config", config)
        # The same reader refuses all kinds; only a pipe would make a command wait.
        commands = (("status",), ("block", "--keystore", "dev"), ("keys", "list", "--keystore", "dev"))
        others = [run(*command, "--config", config) for command in commands if kind == "pipe"]

    for done in (checked, started):
        assert done.returncode in (1, 2)
        assert place.rpartition("/")[2] in done.stdout
    assert all(done.returncode in (0, 1, 2) for done in others)


def test_a_pipe_that_a_module_would_read_is_refused_by_name(config: Path) -> None:
    with planted(config.parent / "softhsm2.conf", "pipe"):
        text = config.read_text()
        config.write_text(re.sub(r'SOFTHSM2_CONF = ".*"', f'SOFTHSM2_CONF = "{config.parent}/softhsm2.conf"', text))

        for command in ("check-config", "serve"):
            done = run(command, "--config", config)
            assert done.returncode in (1, 2)
            assert "softhsm2.conf is a named pipe (FIFO)" in done.stdout


def test_a_running_proxy_goes_on_and_refuses_the_file_by_name_at_a_reload(
    own_proxy: OwnProxy, environment: DevEnvironment
) -> None:
    module = load_config(environment.config).hsm[0].module
    home = own_proxy.directory / "own"

    def edit(text: str) -> str:
        text = with_every_file(text, home, module)
        return re.sub(r"client_ca = .*\nclient_names = .*\n", "", text)

    proxy = own_proxy.start(edit=edit)
    for place in PLACES:
        if place == "tls/ca.pem":
            continue
        with planted(home / place, "pipe"):
            refused = run("reload", "--config", proxy.environment.config)
            assert_serving(proxy)
            if place != "xksproxy.toml":
                assert refused.returncode == 1
                assert place.rpartition("/")[2] in refused.stdout
        assert run("reload", "--config", proxy.environment.config).returncode == 0
    assert stop(proxy) == 0


@pytest.mark.parametrize("kind", ["pipe", "socket", "endless device"])
def test_nothing_waits_for_what_is_planted_in_the_state_directory(own_proxy: OwnProxy, kind: str) -> None:
    proxy = own_proxy.start()
    config, state = proxy.environment.config, proxy.environment.directory / "state"
    run("block", "--keystore", "dev", "--key", "demo-key", "--config", config)
    assert stop(proxy) == 0
    files = sorted(path for path in state.rglob("*") if path.is_file())
    assert len(files) > 10
    if kind != "pipe":  # the same reader refuses all kinds; one file of each directory shows it
        files = list({path.parent: path for path in files}.values())

    for path in files:
        with planted(path, kind):
            for command in (
                ("check-config",),
                ("keys", "list", "--keystore", "dev"),
                ("credentials", "list", "--keystore", "dev"),
                ("unblock", "--keystore", "dev", "--key", "none"),
                ("hsm", "allow-login", "softhsm"),
                ("reload",),
            ):
                assert run(*command, "--config", config).returncode in (0, 1, 2)
