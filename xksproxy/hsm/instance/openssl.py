"""The SHA-256 of OpenSSL's libcrypto, as a C function that native calls can use."""

import _hashlib
import functools
from ctypes import CDLL, c_void_p, cast


@functools.cache
def sha256_address() -> int:
    """The address of SHA256(3) in the libcrypto that Python's hashlib uses; 0 if it cannot be found.

    A Python that is linked with libcrypto statically may hide the symbol.
    """
    try:
        return cast(CDLL(_hashlib.__file__).SHA256, c_void_p).value or 0
    except (AttributeError, OSError, TypeError):
        return 0
