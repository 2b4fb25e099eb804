"""The differences between PKCS#11 modules, as named settings of one module."""

from dataclasses import dataclass
from typing import Literal

IvMode = Literal["caller", "written-back", "appended"]
IvSource = Literal["token", "system"]


@dataclass(frozen=True, slots=True)
class Quirks:
    """The settings of one module."""

    iv: IvMode = "caller"
    """Who makes the IV. ``caller``: the proxy. ``written-back``: the HSM, which writes it into a zeroed 12-byte buffer.
    ``appended``: the HSM, which gets no IV and appends its 16 bytes to the output."""

    iv_source: IvSource = "token"
    """Where the proxy's IVs come from: the generator of the token or of the operating system."""

    read_write_sessions: bool = True
    """Whether sessions are read/write: CloudHSM opens no others, a write-protected token opens only read-only ones."""

    initialize_string: str | None = None
    """pReserved of C_Initialize; NSS needs it."""

    maximum_data_bytes: int | None = None
    """The maximum number of bytes of a GCM call; None if no limit below that of the API is known."""

    rejected: frozenset[int] = frozenset()
    """Return values of C_Decrypt that mean a wrong tag, besides the standard's own."""

    ambiguous: frozenset[int] = frozenset()
    """Return values of C_Decrypt that mean a wrong tag or a broken device; a self-test decides."""

    busy: frozenset[int] = frozenset()
    """Return values of any function that ask for fewer calls."""

    data_objects: bool = True
    """Whether the token can keep data objects (CKO_DATA). A token may refuse them nevertheless."""
