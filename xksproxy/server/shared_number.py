"""A number that the master sets and its workers read."""

import mmap
import struct
from typing import Final

_FORM: Final = struct.Struct("=q")


class SharedNumber:
    """A number in anonymous memory, 0 at first. It is made by the master before it starts workers."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _FORM.size)

    @property
    def value(self) -> int:
        """The number."""
        number: int = _FORM.unpack_from(self._memory)[0]
        return number

    @value.setter
    def value(self, number: int) -> None:
        _FORM.pack_into(self._memory, 0, number)
