"""What an examination of the configuration finds."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing; its text starts with the key's path. What is ``serious`` is wrong, the rest is a warning."""

    serious: bool
    text: str

    @classmethod
    def problem(cls, text: str) -> Self:
        """Something that fails, or will."""
        return cls(serious=True, text=text)

    @classmethod
    def warning(cls, text: str) -> Self:
        """Something to know that fails nothing yet."""
        return cls(serious=False, text=text)
