"""The time by which a request must be answered. It is passed to each function explicitly."""

import time
from typing import Self

import msgspec


class Deadline(msgspec.Struct, frozen=True):
    """A time on the monotonic clock, in seconds.

    KMS waits 250 ms (R-TIME-1), so every step of a request uses the time that is left.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """A deadline ``seconds`` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left; zero when the deadline has passed."""
        left = self.at - time.monotonic()
        return left if left > 0 else 0.0

    def share(self, part: float) -> Self:
        """An earlier deadline, after ``part`` (0 to 1) of the time that is left."""
        return self.after(self.remaining() * part)

    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.at
