"""What a defect is."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stub_proxy.behaviour import Behaviour


@dataclass(frozen=True, slots=True)
class Defect:
    """One thing done wrongly."""

    name: str
    fails: tuple[str, ...]
    """The ids of the checks that must find it."""

    changes: Mapping[str, Any]
    """Fields of :class:`Behaviour`, and what stands there instead."""

    def behaviour(self) -> Behaviour:
        return replace(Behaviour(), **self.changes)
