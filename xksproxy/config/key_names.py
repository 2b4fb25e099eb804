"""Patterns of external key ids, names of keys on the token, and the naming rule for the labels of key versions."""

import fnmatch
import re
from typing import Final

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.model import Key
from xksproxy.config.object_names import ObjectName

_WILDCARDS: Final = frozenset("*?")
_VERSION_LABEL: Final = re.compile(r"(?P<base>.+)\.v(?P<number>[1-9][0-9]{0,4})", re.DOTALL)


def is_pattern(key_id: str) -> bool:
    """Whether a configured key id is a pattern. A legal id contains no wildcard."""
    return not _WILDCARDS.isdisjoint(key_id)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compile ``*`` and ``?`` as in file names, to an expression that does not backtrack."""
    return re.compile(fnmatch.translate(pattern))


def version_label(base: str, number: int) -> str:
    """The label of a version by the naming rule: ``LABEL``, ``LABEL.v2``, ``LABEL.v3`` and so on."""
    return base if number == 1 else f"{base}.v{number}"


def split_version_label(label: str) -> tuple[str, int] | None:
    """The base label and number of version 2 or later by the naming rule. None for other labels."""
    match = _VERSION_LABEL.fullmatch(label)
    number = int(match["number"]) if match else 0
    return (match["base"], number) if match and 1 < number <= MAXIMUM_VERSION else None


def configured_name(key: Key) -> str | None:
    """The name on the token that a configured key gives; None if it gives none, so that its id is its label.

    Raises:
        ValueError: see :meth:`ObjectName.of_settings`.
    """
    name = ObjectName.of_settings(key.label, key.object_id, key.uri)
    return None if name is None else str(name)
