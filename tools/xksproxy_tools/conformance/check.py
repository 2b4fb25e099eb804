"""What a check is."""

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
    """One question to a proxy."""

    id: str
    """A slug, unique over all chapters; ``--only`` selects by it, and it stays the same over releases."""

    requirements: tuple[str, ...]
    """The ids of the requirements that a failure breaks."""

    level: Level
    title: str
    """What is right, as a statement."""

    run: Callable[[Subject], str | None]
    """Asks. Returns what is worth telling about a pass, or None.

    Raises:
        CheckFailed: the answer is no.
        NotApplicable: it cannot be asked.
    """


@dataclass(frozen=True, slots=True)
class Chapter:
    """The checks of one part of the API, in the order in which they are made."""

    name: str
    title: str
    checks: tuple[Check, ...]
