"""The demo, run completely as by `./dev demo`, and its failures."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console_blocks import blocks_of
from programs import forked_aws, write_program, write_unhurried
from shown_output import shows

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).parents[2] / "softhsm" / "demo"
_PAGE = Path(__file__).parents[2] / "docs" / "kms-emulator.md"
_PROGRAMS = ("aws", "python", "xksproxy")
_COMMANDS = 60  # more than the demo has

_IDLE_PROXY = "mkdir proxy; touch proxy/client.env; echo serving; exec sleep 600"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The programs of a checkout with this virtual environment; a test may replace some of them."""
    made = tmp_path / "checkout" / ".venv" / "bin"
    made.mkdir(parents=True)
    for name in _PROGRAMS:
        write_program(made / name, f'exec "{Path(sys.executable).parent / name}" "$@"')
    write_program(made / "sleep", "exec /bin/sleep 0.5")  # instead of a second between two attempts
    write_program(made / "xksproxy", f'exec "{sys.executable}" "{write_unhurried(tmp_path)}" "$@"')
    return made


@pytest.fixture
def demo(programs: Path, tmp_path: Path) -> Run:
    """Run the demo of that checkout; its directory is made in ``tmp``."""
    script = tmp_path / "checkout" / "softhsm" / "demo"
    script.parent.mkdir()
    shutil.copy(_SCRIPT, script)
    (tmp_path / "tmp").mkdir()

    def run(*arguments: str, enters: int = 0) -> "subprocess.CompletedProcess[str]":
        # Settings for AWS that must not matter.
        environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "AWS_PROFILE": "none", "AWS_ENDPOINT_URL": "x:"}
        return subprocess.run(
            [script, *arguments], input="\n" * enters, capture_output=True, text=True, check=False, env=environment
        )

    return run


def _left(tmp_path: Path) -> tuple[list[str], list[str]]:
    """What the demo has left: entries of its directory, and processes that use the directory."""
    directory = tmp_path / "tmp"
    processes = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            of = f"{(process / 'cwd').readlink()} {(process / 'cmdline').read_text()}"
        except OSError:  # it has ended, or is another user's
            continue
        if str(directory) in of:
            processes.append(of)
    return [path.name for path in directory.iterdir()], processes


@pytest.fixture
def quick_aws(programs: Path) -> Iterator[None]:
    """The AWS CLI of that checkout, in forks of one interpreter."""
    with forked_aws(programs):
        yield


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("quick_aws")
def test_the_demo_goes_from_a_new_key_store_to_its_end_and_leaves_nothing(demo: Run, tmp_path: Path) -> None:
    done = demo("--pause", enters=_COMMANDS)

    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-2000:]
    shown = [line.removeprefix("$ ") for line in done.stdout.splitlines() if line.startswith("$ ")]
    commands = [
        *("aws kms create-custom-key-store", "aws kms connect-custom-key-store"),
        *("aws kms create-key --origin EXTERNAL_KEY_STORE", "aws kms encrypt", "aws kms decrypt"),
        *("aws kms generate-data-key ", "aws kms re-encrypt", "xksproxy block", "xksproxy unblock"),
        *("xksproxy credentials create", "aws kms update-custom-key-store", "xksproxy credentials retire"),
        *("aws kms disconnect-custom-key-store", "aws kms schedule-key-deletion"),
    ]
    for command in commands:
        assert any(line.startswith(command) for line in shown), command
    assert done.stdout.count("\nHello World!\n") == 3
    assert done.stdout.count("(KMSInvalidStateException)") == 3
    assert _left(tmp_path) == ([], [])
    (page,) = [block.lines for block in blocks_of(_PAGE, _PAGE.name) if block.lines[0] == "$ ./dev demo"]
    assert shows(page[1:], done.stdout) is not None, done.stdout


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        (("xksproxy", "echo no token >&2; exit 2"), "unexpected result: the proxy has ended"),
        (("xksproxy", _IDLE_PROXY), "unexpected result: the input ended"),
        (("python", "exit 0"), "demo: no free ports"),
    ],
    ids=["no-proxy", "no-more-enters", "no-ports"],
)
def test_an_unexpected_result_stops_the_demo_with_the_reason_and_keeps_its_files(
    demo: Run, programs: Path, tmp_path: Path, replaced: tuple[str, str], words: str
) -> None:
    program, instead = replaced
    write_program(programs / program, instead)

    done = demo("--pause", enters=3)

    assert done.returncode in (1, 2)
    assert words in done.stderr, done.stderr
    directories, processes = _left(tmp_path)
    assert processes == []
    assert f"are in {tmp_path / 'tmp' / directories[0]}\n" in done.stderr


def test_the_demo_does_not_start_without_its_programs(demo: Run, programs: Path, tmp_path: Path) -> None:
    (programs / "aws").unlink()

    done = demo()

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("/.venv/bin/aws is missing; ./dev demo makes it\n")
    assert _left(tmp_path) == ([], [])


def test_the_shell_scripts_pass_shellcheck() -> None:
    for script in (_SCRIPT, _SCRIPT.with_name("make-token"), _SCRIPT.parents[1] / "dev"):
        done = subprocess.run(["shellcheck", str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
