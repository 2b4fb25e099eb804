"""The one instant by which a request must be answered, passed down explicitly."""

import time
from typing import Self

import msgspec


class Deadline(msgspec.Struct, frozen=True):
    """A moment on the monotonic clock (seconds).

    KMS gives up after 250 ms (R-TIME-1), so every step of a request asks how much is left.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """The deadline that lies ``seconds`` from now."""
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, zero once the deadline has passed."""
        return max(0.0, self.at - time.monotonic())

    def share(self, part: float) -> Self:
        """The deadline that leaves ``part``, 0 to 1, of the time left from now."""
        return self.after(self.remaining() * part)

    def passed(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self.at
