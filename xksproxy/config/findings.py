"""The result of an inspection of the configuration."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem (``serious``) or warning. Its text starts with the path of the key."""

    serious: bool
    text: str

    @classmethod
    def problem(cls, text: str) -> Self:
        """Something that fails now or will fail."""
        return cls(serious=True, text=text)

    @classmethod
    def warning(cls, text: str) -> Self:
        """Something that does not fail yet."""
        return cls(serious=False, text=text)
