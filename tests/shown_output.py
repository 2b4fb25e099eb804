"""Compares what a page shows with what a command wrote. Values that vary are patterns, which are defined here, once.

A line that is ``…`` stands for any lines, and ``…`` within a line for any text. Columns may have other widths.
"""

import re
from collections.abc import Callable
from typing import Final

_MILLISECONDS: Final = r'\b\d+(?:\.\d+)? ms\b|\b(?:queue_|hsm_)?ms"?[=:]\d+(?:\.\d+)?'
_DURATION: Final = r"\b\d+(?:\.\d+)? (?:seconds?|minutes?|days?|s) ago\b|\bin \d+(?:\.\d+)? s\b"
_AUDIT_LINES: Final = r"\b(?:line|numbers?) \d+(?: (?:to|after) \d+)?|\b\d+ lines\b"
_BASE64: Final = (
    r'(?<=")(?=[^"]*[0-9+/=][^"]*")'  # without such a character it is a word
    r'(?:[0-9A-Za-z+/]{4})+(?:[0-9A-Za-z+/]{2}==|[0-9A-Za-z+/]{3}=)?(?=")'
)

# In this order: what is found first is not searched for what comes later.
_VARYING: Final = (
    ("date", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00", None),
    ("uuid", r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", None),
    ("proof", r"\b\d:[0-9A-Za-z+/]{40,}=*", r"\d:[0-9A-Za-z+/]{40,}=*"),
    ("key store", r"\bcks-[0-9a-f]{17}\b", None),
    ("access key id", r"\b[A-Z2-7]{26}\b", None),
    ("base64", _BASE64, r"[0-9A-Za-z+/]+=*"),
    ("hexadecimal", r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{16,}\b", r"[0-9a-f]{16,}"),
    ("processes", r"\bprocess \d+(?:, \d+)*", None),
    ("process", r'\bpid"?[=:] ?\d+', None),
    ("milliseconds", _MILLISECONDS, None),
    ("duration", _DURATION, None),
    ("machine", r"\bproxy-1\b", r"[0-9A-Za-z.-]+"),
    ("port", r"(?<=127\.0\.0\.1:)\d+|(?<=localhost:)\d+", r"\d+"),
    ("configuration", r"\bconfiguration \d+\b|\bnumber=\d+", None),
    ("version", r"\b\d+\.\d+\.\d+\b", None),
    ("firmware", r"\bfirmware \d+\.\d+", None),
    ("directory", r"(?<![\w./])/(?:[\w.@+-]+/)+(?=[\w.@+-])", r"/(?:[^/\s]+/)*"),
    ("audit lines", _AUDIT_LINES, None),
    ("encryptions", r"\d+(?= {2,}4,294,967,296)|(?<=ENABLED) {2,}\d+ {2,}[\d,]+$", r"\d+| {2,}\d+ {2,}[\d,]+"),
    ("columns", r" {2,}", None),
)
"""Name, what is such a value on a page, and what stands for it; None: the same."""

_PARTS: Final = re.compile("|".join(f"({pattern})" for _, pattern, _ in _VARYING))


def shows(shown: list[str], written: str) -> dict[str, str] | None:
    """Whether a command wrote what is shown; if so, what it wrote for each value that varies."""
    values: list[str] = []
    expression = "".join(_lines(shown, values.append)).removesuffix("\n") + r"\n*"
    match = re.fullmatch(expression, "\n".join(line.rstrip() for line in written.lstrip("\n").splitlines()))
    return dict(zip(values, match.groups(), strict=True)) if match else None


def _lines(shown: list[str], value: Callable[[str], None]) -> list[str]:
    while shown and not shown[-1]:
        shown = shown[:-1]
    lines = [r"(?:.*\n)*?" if line.strip() == "…" else _line(line.rstrip(), value) + "\n" for line in shown]
    if shown and shown[-1].strip() == "…":
        lines[-1] = r"(?:.*\n?)*"
    return lines


def _line(line: str, value: Callable[[str], None]) -> str:
    expression, position = "", 0
    for found in _PARTS.finditer(line):
        _, pattern, instead = _VARYING[(found.lastindex or 1) - 1]
        expression += f"{_fixed(line[position : found.start()])}({instead or pattern})"
        value(found[0])
        position = found.end()
    return expression + _fixed(line[position:])


def _fixed(text: str) -> str:
    return ".*".join(map(re.escape, text.split("…")))
