"""The unit as systemd judges it, and the installer."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deploy_support import DEPLOY, TOP, UNIT, Unit

from xksproxy.cli.reload import DECISION_SECONDS, FOLLOW_SECONDS
from xksproxy.config.load import load_config
from xksproxy.server import master, shutdown, worker
from xksproxy.server.shutdown import CLOSE_SECONDS

_INSTALLER = DEPLOY / "systemd" / "install.sh"
_NOBODY = 65534


def _analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def test_the_sandbox_exposes_little() -> None:
    report = _analyze("security", "--offline=true", "--no-pager", str(UNIT))
    match = re.search(r"Overall exposure level for xksproxy\.service: ([0-9.]+)", report)
    assert match
    assert float(match[1]) <= 2.0, report


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """With a program that exists, which is all that systemd could find missing here."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/xksproxy/bin/xksproxy", "/bin/true"))
    _analyze("verify", "--man=no", str(copy))


def test_the_example_drop_in_is_valid_with_all_of_it_switched_on(tmp_path: Path) -> None:
    example = DEPLOY / "systemd" / "xksproxy.service.d" / "pkcs11-module.conf.example"
    settings = re.sub(r"(?m)^# ([A-Z][A-Za-z]+=)", r"\1", example.read_text())
    assert settings.count("\nProcSubset=") == 1
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/xksproxy/bin/xksproxy", "/bin/true"))
    (tmp_path / f"{UNIT.name}.d").mkdir()
    (tmp_path / f"{UNIT.name}.d" / "pkcs11-module.conf").write_text(settings)
    _analyze("verify", "--man=no", str(copy))


def test_the_unit_leaves_time_for_the_drain() -> None:
    assert worker._LEAVE_SECONDS + CLOSE_SECONDS < master._LEAVE_SECONDS
    drain = shutdown._LOAD_BALANCER_SECONDS + master._LEAVE_SECONDS
    assert drain + 5 <= int(Unit(UNIT).one("TimeoutStopSec"))


@pytest.mark.parametrize("script", [_INSTALLER, TOP / "dev", TOP / ".ci" / "run"], ids=lambda path: path.name)
def test_shell_scripts_are_clean(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True)
    done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def _install(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(_INSTALLER), *arguments], capture_output=True, text=True, check=False, user=user, cwd="/"
    )


def test_a_dry_run_says_everything_and_does_nothing() -> None:
    before = {
        path: os.path.lexists(path) for path in ("/opt/xksproxy", "/etc/xksproxy", "/etc/sysusers.d/xksproxy.conf")
    }

    done = _install("--dry-run")

    assert done.returncode == 0, done.stderr
    for word in ("venv", "requirements.lock", "systemd-sysusers", "systemd-tmpfiles", "xksproxy.service", "-m 0640"):
        assert word in done.stdout
    assert {path: os.path.lexists(path) for path in before} == before


def test_it_refuses_to_run_without_root(tmp_path: Path) -> None:
    if os.getuid():
        done = _install()
    else:  # from a place that nobody can read
        done = subprocess.run(
            ["sh", "-s", "--"], input=_INSTALLER.read_text(), capture_output=True, text=True, check=False, user=_NOBODY,
            cwd="/",
        )  # fmt: skip

    assert done.returncode == 2
    assert "run it as root" in done.stderr


@pytest.mark.parametrize("arguments", [["--wheel", "/nonexistent.whl"], ["--wheel"], ["--unknown"]])
def test_it_refuses_arguments_that_mean_nothing(arguments: list[str]) -> None:
    assert _install(*arguments).returncode == 2


def test_systemd_waits_for_a_reload_as_long_as_its_command() -> None:
    assert int(Unit(UNIT).one("TimeoutStartSec")) > DECISION_SECONDS + FOLLOW_SECONDS


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for a root file system of its own")
def test_it_installs_twice_and_keeps_the_configuration(tmp_path: Path, wheel: Path) -> None:
    """On an overlay over this machine's own files, which keeps what is written to itself.

    Without the dependencies: another test installs those, and reads them from the same lock.
    """
    install = f"PIP_NO_DEPS=1 /mnt/deploy/systemd/install.sh --wheel {wheel}"
    script = f"""
        set -eu
        mount -t tmpfs none {tmp_path}
        mkdir {tmp_path}/new {tmp_path}/work {tmp_path}/root
        mount -t overlay -o lowerdir=/,upperdir={tmp_path}/new,workdir={tmp_path}/work none {tmp_path}/root
        for each in /dev /proc; do mount --rbind $each {tmp_path}/root$each; done
        mount --rbind {TOP} {tmp_path}/root/mnt
        rm -rf {tmp_path}/root/opt/xksproxy* {tmp_path}/root/etc/xksproxy
        exec chroot {tmp_path}/root sh -eu -c '
            {install}
            readlink /opt/xksproxy
            echo "# mine" >>/etc/xksproxy/xksproxy.toml
            {install}
            readlink /opt/xksproxy
            tail -n 1 /etc/xksproxy/xksproxy.toml
            stat -c "%a %U:%G %n" /etc/xksproxy /etc/xksproxy/* /var/lib/xksproxy
            head -n 1 /opt/xksproxy/bin/xksproxy
            setpriv --reuid=xksproxy --regid=xksproxy --clear-groups /opt/xksproxy/bin/python -c "import xksproxy"
            cat /etc/xksproxy/xksproxy.toml'
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[1]
    assert lines[0].startswith("/opt/xksproxy-releases/")
    assert done.stderr.count("installing /opt/xksproxy-releases/") == 1
    assert lines[2] == "# mine"
    assert lines[3:8] == [
        "750 root:xksproxy /etc/xksproxy",
        "700 xksproxy:xksproxy /etc/xksproxy/credentials",
        "750 root:xksproxy /etc/xksproxy/tls",
        "640 root:xksproxy /etc/xksproxy/xksproxy.toml",
        "700 xksproxy:xksproxy /var/lib/xksproxy",
    ]
    assert lines[8].startswith(f"#!{lines[0]}/bin/")  # not the link: what runs keeps its release
    installed = tmp_path / "xksproxy.toml"
    shutil.copyfile(TOP / "config" / "xksproxy.toml", installed)
    installed.write_text("\n".join(lines[9:]))
    config = load_config(installed)
    assert config.hsm[0].pin is not None
    assert getattr(config.hsm[0].pin, "credential", None) == Unit(UNIT).one("LoadCredential").partition(":")[0]
    assert config.health.listen == "0.0.0.0:8080"
