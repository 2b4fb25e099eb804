"""The console blocks of the documentation: their commands, what they show, and how tests run them.

An HTML comment before a block, which readers do not see, says what a test does that a reader does not:

- ``<!-- console: first: COMMAND -->``: run this before the block.
- ``<!-- console: output of: COMMAND -->``: the block is only output, of this command.
- ``<!-- console: serves -->``: its last command does not end; it runs until the page ends.
- ``<!-- console: not run: REASON -->``: the block cannot be run on a test machine.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

_BLOCK = re.compile(r"(?m)^(?P<indent> *)```console\n(?P<text>(?:.*\n)*?)(?P=indent)```$")
_COMMENT = re.compile(r"<!-- console: (first|output of|serves|not run)(?:: ((?:(?!-->).)*))? -->\s*\Z", re.DOTALL)


@dataclass
class Step:
    """One command, and the lines that the page shows as its output; None if nothing is shown."""

    command: str
    output: list[str] | None = None


@dataclass
class Block:
    """A console block. ``line`` is where it begins in its page."""

    page: str
    line: int
    lines: list[str]
    steps: list[Step] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    serves: bool = False
    not_run: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path, name: str) -> list[Block]:
    """The console blocks of a page, in its order."""
    text = page.read_text("utf-8")
    return [_block(match, text, name) for match in _BLOCK.finditer(text)]


def _block(match: re.Match[str], text: str, name: str) -> Block:
    lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
    block = Block(name, text.count("\n", 0, match.start()) + 1, lines)
    before = text[: match.start()]
    while comment := _COMMENT.search(before):
        before = before[: comment.start()]
        kind, words = comment[1], " ".join((comment[2] or "").split())
        if kind == "first":
            block.first.insert(0, words)
        elif kind == "output of":
            block.steps = [Step(words, lines)]
        elif kind == "serves":
            block.serves = True
        else:
            block.not_run = words
    if not block.steps:
        block.steps = _steps(lines)
    return block


def _steps(lines: list[str]) -> list[Step]:
    steps: list[Step] = []
    continued = False  # by a backslash, or within quotes
    for line in lines:
        if continued:
            steps[-1].command += f"\n{line}"
        elif line.startswith("$ "):
            steps.append(Step(line.removeprefix("$ ")))
        elif not steps:
            return []
        elif line or steps[-1].output:
            steps[-1].output = [*(steps[-1].output or []), line]
        is_command = continued or line.startswith("$ ")
        continued = is_command and (line.endswith("\\") or steps[-1].command.count("'") % 2 == 1)
    return steps
