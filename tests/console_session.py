"""A shell that runs the commands of one page of the documentation, in its order, in a directory of its own."""

import select
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from console_blocks import Block, Step
from shown_output import shows
from support import PATIENCE_SECONDS

_REPEATED = (
    "xksproxy status",
    "xksproxy credentials list",
    "xksproxy keys show",
    "xksproxy audit verify",
    "grep ",
    "jq ",
)
_END_SECONDS = 10.0
_REPEATED_SECONDS = 20.0  # what these print follows its cause a moment later; it costs only where a test fails


class ConsoleSession:
    """A bash that keeps its variables from step to step. Values that varied are replaced in later commands."""

    def __init__(self, directory: Path, environment: Mapping[str, str], replaced: Mapping[str, str]) -> None:
        """Start the shell. ``replaced`` are texts of commands that are other ones here, such as ports."""
        self._directory = directory
        self._replaced = dict(replaced)
        self._steps = 0
        self._code = 0
        self._shell = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory, env=environment, text=True
        )

    def close(self) -> None:
        """End the shell. What it left running in the background gets SIGTERM."""
        assert self._shell.stdin
        self._shell.stdin.write("kill $(jobs -p) 2>/dev/null; wait; exit\n")
        self._shell.stdin.close()
        try:
            self._shell.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()
        assert self._shell.stdout
        self._shell.stdout.close()

    def run(self, block: Block) -> None:
        """Run a block, and compare.

        Raises:
            AssertionError: a command wrote something else, or failed and the page shows no output of it.
        """
        for command in block.first:
            code, written = self._execute(command)
            assert code == 0, f"{block.place}: before the block: {command}\n{written}"
        for step in block.steps:
            if block.serves and step is block.steps[-1]:
                self._serve(block, step)
            else:
                self._compare(block, step)

    def _compare(self, block: Block, step: Step) -> None:
        end = time.monotonic() + (_REPEATED_SECONDS if step.command.startswith(_REPEATED) else 0.0)
        while True:
            code, written = self._execute(step.command)
            if self._is_as_shown(step, code, written):
                return
            assert time.monotonic() < end, _difference(block, step, code, written)
            time.sleep(0.2)

    def _serve(self, block: Block, step: Step) -> None:
        output = self._directory / f"step-{self._steps}.served"
        output.touch()
        self._tell(f"{self._translated(step.command)} >{output} 2>&1 </dev/null &")
        end = time.monotonic() + _REPEATED_SECONDS
        while not self._is_as_shown(step, 0, output.read_text()):
            assert time.monotonic() < end, _difference(block, step, 0, output.read_text())
            time.sleep(0.1)

    def _is_as_shown(self, step: Step, code: int, written: str) -> bool:
        if step.output is None:
            return code == 0
        values = shows(step.output, written)
        if values is None:
            return False
        self._replaced.update({shown: value for shown, value in values.items() if shown.strip() and shown[0] != "/"})
        return True

    def _translated(self, command: str) -> str:
        for shown in sorted(self._replaced, key=len, reverse=True):
            command = command.replace(shown, self._replaced[shown])
        return command

    def _execute(self, command: str) -> tuple[int, str]:
        """Run a command in the shell; its exit code and what it wrote."""
        self._steps += 1
        script = self._directory / f"step-{self._steps}"
        script.write_text(f"{self._translated(command)}\n")
        output = script.with_suffix(".out")
        self._code = self._tell(
            f"(exit {self._code}); source {shlex.quote(str(script))} </dev/null >{shlex.quote(str(output))} 2>&1"
        )
        return self._code, output.read_text(errors="replace")

    def _tell(self, line: str) -> int:
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{line}\necho $?\n")
        self._shell.stdin.flush()
        ready, _, _ = select.select([self._shell.stdout], [], [], PATIENCE_SECONDS)
        assert ready, f"it has not ended after {PATIENCE_SECONDS:.0f} s: {line}"
        return int(self._shell.stdout.readline())


def _difference(block: Block, step: Step, code: int, written: str) -> str:
    shown = "(nothing; so the command must succeed)" if step.output is None else "\n".join(step.output)
    return f"{block.place}: $ {step.command}\n--- the page shows\n{shown}\n--- exit code {code}, written:\n{written}"
