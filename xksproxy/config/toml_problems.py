"""What is wrong with a TOML file, in words that name the key. A value is never quoted, because it may be a secret."""

import re
from typing import Final

REPEATED_TABLES: Final = frozenset({"hsm", "keystore", "keystore.keys"})
"""The tables that may come several times, with two brackets each."""
_POSITION: Final = re.compile(r" \(at (?:line (?P<line>[0-9]+), column [0-9]+|end of document)\)$")
_STATEMENT: Final = re.compile(r"""\s*(?:\[\[?\s*(?P<table>[\w.'" -]+?)\s*\]|(?P<key>[\w.'" -]+?)\s*=)""", re.ASCII)
_TWICE: Final = re.compile(r"Cannot declare \((?P<parts>.*?),?\) twice")
_OVERWRITES: Final = ("Cannot overwrite a value", "Cannot mutate immutable namespace")


def toml_problem(error: Exception, text: str) -> str:
    """The reason of tomllib, with the key or table where it only gives a position."""
    message = str(error)
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    position = _POSITION.search(message)
    if position is None:
        return "a number has too many digits" if "integer string conversion" in message else message
    if twice := _TWICE.search(message):
        name = ".".join(re.findall(r"'([^']*)'", twice["parts"]))
        several = f", or write [[{name}]]" if name in REPEATED_TABLES else ""
        return f"the table [{name}] is there twice{position[0]}; remove one{several}"
    if not message.startswith(_OVERWRITES):
        return message
    lines = text.splitlines()
    last = int(position["line"]) if position["line"] else len(lines)
    return f"{_statement_before(lines[:last])} is there twice, or as a value and as a table{position[0]}; remove one"


def toml_position(error: Exception) -> str:
    """Where a file is not TOML, without a word of its content; empty if that is not known."""
    position = _POSITION.search(str(error))
    return position[0] if position else ""


def _statement_before(lines: list[str]) -> str:
    """The key or the table of the last statement that begins in these lines."""
    for line in reversed(lines):
        if match := _STATEMENT.match(line):
            return f"the table [{match['table']}]" if match["table"] else f"the key {match['key']}"
    return "a key"
