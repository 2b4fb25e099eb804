"""External key ids mapped to labels on the token."""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from xksproxy.config.check import is_pattern
from xksproxy.config.model import Key
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.spec.uri import is_key_id


@dataclass(frozen=True, slots=True)
class ExternalKey:
    """One key as KMS names it, the label it has on the token, and whether the configuration disables it."""

    id: str
    label: str
    disabled: bool
    hedge_after: float | None = None
    """Seconds after which a slow call is sent to a second HSM too."""


@dataclass(frozen=True, slots=True)
class _Pattern:
    expression: re.Pattern[str]
    disabled: bool
    hedge_after: float | None


class KeyMap:
    """Which external key ids a key store exposes (R-URI-7). An id named outright goes before patterns."""

    def __init__(self, keys: Iterable[Key]) -> None:
        keys = tuple(keys)
        self._named = {
            key.id: ExternalKey(key.id, key.label or key.id, key.disabled, _seconds(key.hedge_after_ms))
            for key in keys
            if not is_pattern(key.id)
        }
        self._patterns = tuple(
            _Pattern(_compile(key.id), key.disabled, _seconds(key.hedge_after_ms)) for key in keys if is_pattern(key.id)
        )
        # A key exposed under another id is not exposed a second time under its label.
        self._renamed = frozenset(key.label for key in self._named.values() if key.label != key.id)

    def resolve(self, key_id: str) -> ExternalKey:
        """The key behind an id; among several patterns that match, one that disables wins.

        Raises:
            KeyNotFoundException: the key store exposes no such key, or no key can have this id (Q-12).
        """
        if named := self._named.get(key_id):
            return named
        if is_key_id(key_id) and key_id not in self._renamed:
            matching = [pattern for pattern in self._patterns if pattern.expression.fullmatch(key_id)]
            if matching:
                disabled = any(pattern.disabled for pattern in matching)
                return ExternalKey(key_id, key_id, disabled, matching[0].hedge_after)
        raise KeyNotFoundException(
            "The key store exposes no external key of this id; check the key id and its keys list"
        )

    def exposes(self, label: str) -> bool:
        """Whether a key of this label on the token is an external key."""
        if any(key.label == label for key in self._named.values()):
            return True
        return label not in self._renamed and any(pattern.expression.fullmatch(label) for pattern in self._patterns)

    def named_keys(self) -> tuple[ExternalKey, ...]:
        """The keys that are named outright, in the order of the configuration."""
        return tuple(self._named.values())


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _compile(pattern: str) -> re.Pattern[str]:
    """``*`` and ``?`` as in file names, in an expression that never backtracks through its stars."""
    return re.compile(fnmatch.translate(pattern))
