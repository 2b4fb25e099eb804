"""The ways in which PKCS#11 modules differ, as named settings of one module."""

from dataclasses import dataclass
from typing import Literal

IvMode = Literal["caller", "written-back", "appended"]
IvSource = Literal["token", "system"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """The settings of one module."""

    iv: IvMode = "caller"
    """Who makes the IV, and where it comes back: the caller; the HSM, writing it into the zeroed buffer it is given;
    or the HSM, appending its 16 bytes to the output when it is given none."""

    iv_source: IvSource = "token"
    """Where a caller's IV comes from: the token's generator, or the operating system's where the module has none."""

    read_write_sessions: bool = True
    """CloudHSM opens no other; a token that is write-protected opens only read-only ones."""

    initialize_string: str | None = None
    """What C_Initialize gets as pReserved; NSS cannot do without."""

    maximum_data_bytes: int | None = None
    """Most bytes a GCM call may have; None where no limit below the API's is known."""

    rejected: frozenset[int] = frozenset()
    """Return values of C_Decrypt that say "wrong tag", besides the standard's own."""

    ambiguous: frozenset[int] = frozenset()
    """Return values of C_Decrypt that may say "wrong tag" or "broken"; a self-test settles which."""

    busy: frozenset[int] = frozenset()
    """Return values of any function that ask to slow down."""
