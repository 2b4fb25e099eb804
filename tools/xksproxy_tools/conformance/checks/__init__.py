"""The checks, one module for each chapter."""

from typing import Final

from xksproxy_tools.conformance.check import Chapter
from xksproxy_tools.conformance.checks import (
    authentication,
    decrypt,
    encoding,
    encrypt,
    errors,
    health,
    integrity,
    metadata,
    requests,
    tampering,
    timing,
    transport,
    uris,
)

CHAPTERS: Final = (
    Chapter("transport", "TLS and HTTP", transport.CHECKS),
    Chapter("uris", "URIs and methods", uris.CHECKS),
    Chapter("authentication", "Authentication", authentication.CHECKS),
    Chapter("requests", "Requests", requests.CHECKS),
    Chapter("encoding", "Base64 and JSON", encoding.CHECKS),
    Chapter("health", "GetHealthStatus", health.CHECKS),
    Chapter("metadata", "GetKeyMetadata", metadata.CHECKS),
    Chapter("encrypt", "Encrypt", encrypt.CHECKS),
    Chapter("decrypt", "Decrypt", decrypt.CHECKS),
    Chapter("tampering", "Tampering", tampering.CHECKS),
    Chapter("integrity", "Integrity", integrity.CHECKS),
    Chapter("errors", "Errors", errors.CHECKS),
    Chapter("timing", "Timing", timing.CHECKS),
)
"""In the order in which they are made."""
