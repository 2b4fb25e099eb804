"""The ways in which the stub can be wrong, a module for each chapter of the checks."""

from stub_proxy.behaviour import Defect
from stub_proxy.defects import (
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

_CHAPTERS = (
    *(transport, uris, authentication, requests, encoding, health, metadata),
    *(encrypt, decrypt, tampering, integrity, errors, timing),
)

DEFECTS: tuple[Defect, ...] = tuple(defect for chapter in _CHAPTERS for defect in chapter.DEFECTS)
