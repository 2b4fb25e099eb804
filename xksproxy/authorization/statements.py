"""Splits the text of a policy file into its policies, so that messages can name the line of a policy.

A semicolon ends every policy. Elsewhere it occurs only in strings and comments.
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
"""The nesting of brackets. Cedar's parser recurses: at a nesting of 1000 the process crashes."""

MAXIMUM_WORDS: Final = 2000
"""Names, numbers and operators in a policy. cedarpy crashes at a chain of about 1000 operators.
Strings, such as the entries of a set, do not count."""


class StatementError(Exception):
    """A policy is refused. The message says why."""


@dataclass(frozen=True, slots=True)
class Statement:
    """The text of one policy with the blanks and comments before it, and the line on which the policy begins."""

    text: str
    line: int
    depth: int
    words: int

    def require_within_limits(self) -> None:
        """Refuse a policy that could crash the process in Cedar's parser.

        Raises:
            StatementError: brackets are nested too deeply, or there are too many names and operators.
        """
        if self.depth > MAXIMUM_DEPTH:
            raise StatementError(f"more than {MAXIMUM_DEPTH} levels of nested brackets; simplify or split the policy")
        if self.words > MAXIMUM_WORDS:
            raise StatementError(f"more than {MAXIMUM_WORDS} names and operators; use a set with contains()")


def split_statements(text: str) -> Iterator[Statement]:
    """Yield the policies of a file, each with its semicolon. A last one without a semicolon is yielded too."""
    start = depth = deepest = words = 0
    line, first_line = 1, None
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind != "blank" and first_line is None:
            first_line = line
        line += token[0].count("\n")
        # A closing bracket without an opening one must not lower the depth of brackets that come later.
        depth = max(0, depth + (kind == "open") - (kind == "close"))
        deepest = max(deepest, depth)
        words += kind == "word"
        if kind == "end":
            yield Statement(text[start : token.end()], first_line or line, deepest, words)
            start, first_line, depth, deepest, words = token.end(), None, 0, 0, 0
    if first_line is not None:
        yield Statement(text[start:], first_line, deepest, words)
