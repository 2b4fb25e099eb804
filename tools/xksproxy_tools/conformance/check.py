"""The definition of a check."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from xksproxy_tools.conformance.subject import Subject


class Level(Enum):
    """How binding a requirement is (RFC 2119)."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a proxy."""

    id: str
    """A unique name, for ``--only``. It does not change between releases."""

    requirements: tuple[str, ...]
    """The ids of the requirements that a failure violates."""

    level: Level
    title: str
    """The expected behaviour, as a statement."""

    run: Callable[[Subject], str | None]
    """Makes the check. Returns a note about the result, or None.

    Raises:
        CheckFailed: the proxy violates a requirement.
        NotApplicable: something that the check needs is missing.
    """


@dataclass(frozen=True, slots=True)
class Chapter:
    """The checks of one part of the API, in the order in which they are made."""

    name: str
    title: str
    checks: tuple[Check, ...]
