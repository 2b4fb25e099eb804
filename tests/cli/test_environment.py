"""Wherever a command runs, it answers with exit code 0, 1 or 2, and never with a traceback."""

import _thread
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click
import pytest
from command_support import Finished, with_free_ports
from support import program
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.cli.main import cli, main

_COMMANDS = {
    "help": ("--help",),
    "version": ("version",),
    "check-config": ("check-config",),
    "kms-config": ("kms-config", "--keystore", "dev"),
    "credentials list": ("credentials", "list", "--keystore", "dev"),
    "credentials create": ("credentials", "create", "--keystore", "dev"),
    "block": ("block", "--keystore", "dev", "--key", "demo-key"),
    "unblock": ("unblock", "--keystore", "dev", "--key", "demo-key"),
    "state check": ("state", "check"),
    "state backup": ("state", "backup", "--out", "{directory}/backup.json"),
    "status": ("status",),
    "reload": ("reload",),
    "policy explain": (
        *("policy", "explain", "--keystore", "dev", "--operation", "Encrypt", "--key", "demo-key"),
        *("--principal", "arn:aws:iam::123456789012:root"),
        *("--kms-key-arn", "arn:aws:kms:eu-west-1:123456789012:key/1"),
    ),
    "audit verify": ("audit", "verify", "/dev/null"),
    "call": ("call", "health", "--host", "localhost:1", "--access-key-id", "A" * 20),
}


def _limited(which: int, most: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (most, most))


def _leave_removed_directory() -> None:
    Path("gone").mkdir()
    os.chdir("gone")
    Path("../gone").resolve().rmdir()


def _closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], None)  # as the interpreter does

    return close


def _full(descriptor: int) -> Callable[[], None]:
    def fill() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)

    return fill


def _variables(**values: str | None) -> Callable[[], None]:
    def change() -> None:
        for name, value in values.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

    return change


def _no_threads() -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    threading._start_new_thread = _thread.start_new_thread = start  # type: ignore[attr-defined]


def _no_processes() -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    os.fork = fork


@dataclass(frozen=True)
class _Case:
    change: Callable[[], None]
    serve: str = ""
    """A part of what `serve` answers; empty if it would serve."""


_CASES = {
    "full standard output": _Case(_full(1)),
    "full standard error": _Case(_full(2)),
    "closed standard input": _Case(_closed(0)),
    "closed standard output": _Case(_closed(1)),
    "closed standard error": _Case(_closed(2)),
    "no standard streams": _Case(_closed(0, 1, 2)),
    "removed working directory": _Case(_leave_removed_directory, "the working directory was removed"),
    "few open files": _Case(_limited(resource.RLIMIT_NOFILE, 12), "may have 12 open files; expected at least 64"),
    "no file sizes": _Case(_limited(resource.RLIMIT_FSIZE, 0), "ulimit -f"),
    "no threads": _Case(_no_threads, "cannot start the "),
    "no processes": _Case(_no_processes, "ulimit -u"),
    "no home": _Case(_variables(HOME=None, TMPDIR="/no/such/directory", PATH=None)),
    "dumb terminal": _Case(_variables(TERM="dumb", COLUMNS="1", LINES="0", NO_COLOR="1")),
    "strange terminal": _Case(_variables(TERM="", COLUMNS="-5", LINES="x")),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, environment: DevEnvironment) -> Path:
    """A configuration with a state of its own, and with ports that nobody uses."""
    directory = tmp_path_factory.mktemp("environment")
    for path in environment.directory.iterdir():
        if path.name == "credentials":
            shutil.copytree(path, directory / path.name)
        elif path.name != "state":
            (directory / path.name).symlink_to(path)
    (directory / "xksproxy.toml").unlink()
    (directory / "xksproxy.toml").write_text(with_free_ports(environment.config.read_text()))
    (directory / "state").mkdir(0o700)
    for name, *_ in _COMMANDS.values():
        cli.get_command(click.Context(cli), name)  # imported once, and not in each fork
    return directory / "xksproxy.toml"


def _filled(arguments: tuple[str, ...], config: Path, directory: Path) -> tuple[str, ...]:
    if arguments[0] in ("--help", "version", "call"):
        return arguments
    return (*(argument.format(directory=directory) for argument in arguments), "--config", str(config))


def _run_changed(change: Callable[[], None], arguments: tuple[str, ...], directory: Path) -> Finished:
    """Run a command in a fork of this process, after a change of its environment."""
    out, err = os.pipe(), os.pipe()
    process = os.fork()
    if process:
        os.close(out[1])
        os.close(err[1])
        with os.fdopen(out[0], "rb") as written, os.fdopen(err[0]) as said:
            done = written.read(), said.read()
        return Finished(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), *done)
    try:
        os.chdir(directory)
        for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), out[1], err[1])):
            os.dup2(descriptor, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
        )
        change()
        sys.argv = ["xksproxy", *arguments]
        main()
    except SystemExit as leaving:
        os._exit(leaving.code if isinstance(leaving.code, int) else 98)
    except BaseException:  # noqa: BLE001 - the fork must not run the rest of the tests
        os.write(2, traceback.format_exc().encode())
    os._exit(99)


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
def test_each_command_answers_without_a_traceback(config: Path, tmp_path: Path, case: _Case) -> None:
    for name, arguments in _COMMANDS.items():
        done = _run_changed(case.change, _filled(arguments, config, tmp_path), tmp_path)

        assert done.code in (0, 1, 2), (name, done)
        assert not re.search("Traceback|unexpected|Errno (?!111)", f"{done.text}{done.err}"), (name, done)


@pytest.mark.parametrize("case", [case for case in _CASES.values() if case.serve], ids=lambda case: case.serve)
def test_a_service_that_cannot_start_says_what_to_change(config: Path, tmp_path: Path, case: _Case) -> None:
    done = _run_changed(case.change, ("serve", "--config", str(config)), tmp_path)

    assert (done.code, case.serve in done.err) == (2, True), done.err


def test_a_full_disk_under_standard_output_is_named(config: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*program(None), "version"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (done.returncode, done.stderr) == (2, "xksproxy: standard output: No space left on device\n")


def test_too_little_memory_is_named(tmp_path: Path) -> None:
    def fail() -> None:
        raise MemoryError

    done = _run_changed(partial(setattr, sys.modules["xksproxy.cli.main"], "cli", fail), ("version",), tmp_path)

    assert done.code == 2
    assert done.err.startswith("xksproxy: not enough memory: raise the limit")


_OPENSSL_CNF = "openssl_conf = o\n[o]\nproviders = p\n[p]\nbase = b\n[b]\nactivate = 1\n"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("--help",), 0, ""),
        (("block", "--all", "--state", "{directory}"), 0, ""),
        (("call", "health", "--host", "localhost:1", "--access-key-id", "A" * 20), 2, "LIBRARY_HAS_NO_CIPHERS"),
        (("kms-emulator", "diagnose", "--help"), 2, "check this machine's openssl.cnf and the variable OPENSSL_CONF"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_without_a_provider_of_openssl_commands_that_need_none_work(
    tmp_path: Path, arguments: tuple[str, ...], code: int, reason: str
) -> None:
    (tmp_path / "openssl.cnf").write_text(_OPENSSL_CNF)
    done = subprocess.run(
        [*program(None), *(argument.format(directory=tmp_path) for argument in arguments)],
        env={**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf"), "SIGV4_SECRET_ACCESS_KEY": "s" * 43},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert reason in done.stderr
    assert not re.search("Traceback|unexpected", done.stderr)


@pytest.mark.parametrize("name", ["check-config", "serve"])
def test_where_openssl_demands_fips_and_has_none_the_settings_of_openssl_are_named(
    config: Path, tmp_path: Path, name: str
) -> None:
    cnf = tmp_path / "openssl.cnf"
    cnf.write_text("openssl_conf = o\n[o]\nalg_section = a\n[a]\ndefault_properties = fips=yes\n")
    done = subprocess.run(
        [*program(None), name],
        env={**os.environ, "OPENSSL_CONF": str(cnf), "XKSPROXY_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "check this machine's openssl.cnf and the variable OPENSSL_CONF" in done.stderr
    assert not re.search("Traceback|unexpected", done.stderr)


@pytest.fixture(scope="module")
def moved_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that moves the clock of the process into which it is loaded."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).parents[1] / "faults" / "clock.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize(("year", "reason"), [(1969, "is not valid before"), (2107, "expired")])
def test_a_clock_at_an_odd_place_is_no_reason_for_a_traceback(
    config: Path, moved_clock: Path, year: int, reason: str
) -> None:
    offset = int((datetime(year, 12, 31, tzinfo=UTC) - datetime.now(UTC)).total_seconds())
    environment = {**os.environ, "LD_PRELOAD": str(moved_clock), "CLOCK_OFFSET": str(offset), "TZ": "UTC"}
    for name, code in (("check-config", 1), ("credentials list", 0), ("block", 0), ("state check", 0)):
        done = subprocess.run(
            [*program(None), *_COMMANDS[name], "--config", config],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == code, (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert name != "check-config" or reason in done.stderr
