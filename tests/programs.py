"""Programs that tests put on the search path: commands in forks of one interpreter, or with other deadlines."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from commands import start_server
from support import program

_HERE = Path(__file__).parent
_SERVING = "dev|kms-emulator|serve"  # each is a process of its own, which the test can end


def write_program(path: Path, command: str) -> None:
    """Write a shell script that can be run."""
    path.write_text(f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)


def write_unhurried(directory: Path) -> Path:
    """The command `xksproxy`; `dev` continues as a proxy with a long deadline, for busy machines."""
    script = directory / "long_deadline-dev.py"
    script.write_text(f"""
import os
from xksproxy.cli.main import main
execute = os.execv
os.execv = lambda path, arguments: execute(path, {program()!r} + arguments[3:])
main()
""")
    return script


@contextmanager
def forked_aws(programs: Path) -> Iterator[None]:
    """Write the program ``aws``: the AWS CLI in forks of one interpreter."""
    with _forked(programs / "aws", "aws_cli.py"):
        yield


@contextmanager
def forked_xksproxy(programs: Path, directory: Path) -> Iterator[None]:
    """Write the program ``xksproxy``. What serves, with a long deadline, is a process of its own."""
    serving = f'case $1 in {_SERVING}) exec "{sys.executable}" "{write_unhurried(directory)}" "$@";; esac\n'
    with _forked(programs / "xksproxy", "command_server.py", serving):
        yield


@contextmanager
def _forked(path: Path, server: str, before: str = "") -> Iterator[None]:
    name = f"xksproxy-tests-{path.name}-{os.getpid()}"
    write_program(path, f'{before}exec "{sys.executable}" "{_HERE / "commands.py"}" {name} "$@"')
    with start_server(_HERE / server, name) as process:
        try:
            yield
        finally:
            process.kill()
