"""The text of a policy file taken apart into its policies, so that each can be told by its line.

Cedar ends every policy with a semicolon, which stands nowhere else but in strings and comments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n\r]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<comma>,)
      | (?P<end>;)
      | (?P<word>\w+|&&|\|\||::|[=!<>]=|.)""",
    re.DOTALL | re.VERBOSE,
)
MAXIMUM_DEPTH: Final = 50
"""Brackets within brackets. Cedar's parser recurses through them: a thousand end the process."""

MAXIMUM_WORDS: Final = 2000
"""Names, numbers and operators of a policy, so that no chain of operators is longer than cedarpy survives (some 1000).
The entries of a set, which are strings, do not count."""


class StatementError(Exception):
    """A policy that is not taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy's text with what precedes it, and the line of the file on which the policy begins."""

    text: str
    line: int
    depth: int
    words: int

    def require_harmless(self) -> None:
        """Refuse what would end the process in Cedar's parser instead of an error.

        Raises:
            StatementError: too many brackets within brackets, or too many words.
        """
        if self.depth > MAXIMUM_DEPTH:
            raise StatementError(f"more than {MAXIMUM_DEPTH} brackets within one another")
        if self.words > MAXIMUM_WORDS:
            raise StatementError(f"more than {MAXIMUM_WORDS} names and operators; a set with contains() is shorter")


def split_statements(text: str) -> Iterator[Statement]:
    """The policies of a file, each with its semicolon. An unfinished last one comes as it is."""
    start = depth = deepest = words = 0
    line, first_line = 1, None
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind != "blank" and first_line is None:
            first_line = line
        line += token[0].count("\n")
        # A bracket that closes nothing is an error to Cedar, and no credit for brackets that open later.
        depth = max(0, depth + (kind == "open") - (kind == "close"))
        deepest = max(deepest, depth)
        words += kind == "word"
        if kind == "end":
            yield Statement(text[start : token.end()], first_line or line, deepest, words)
            start, first_line, depth, deepest, words = token.end(), None, 0, 0, 0
    if first_line is not None:
        yield Statement(text[start:], first_line, deepest, words)
