"""How AAD and ciphertextMetadata are authenticated together, and the integrity value (R-CDIV-*).

The composition of R-CDIV-2 is not visible from outside. It is visible that no other pair of AAD and metadata gives the
same bytes, as would be the case without the lengths.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from xksproxy.spec.errors import InvalidCiphertextException, InvalidKeyUsageException, ValidationException
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_success
from xksproxy_tools.conformance.http_connection import HttpResponse
from xksproxy_tools.conformance.messages import Sealed
from xksproxy_tools.conformance.outcome import CheckFailed, NotApplicable, expect, required
from xksproxy_tools.conformance.samples import (
    AAD_LENGTHS,
    PLAINTEXT_LENGTHS,
    expect_decrypts,
    lengths,
    sample,
    seal_sample,
)
from xksproxy_tools.conformance.subject import Subject

_VALUE_BYTES: Final = 32
_PLAINTEXT: Final = b"Hello World!"
_AAD: Final = b"project=nile,department=marketing"
"""As in the specification's example."""


# --- The integrity value


def _value(sealed: Sealed, when: str) -> bytes:
    if sealed.integrity_value is None:
        raise CheckFailed(f"the member ciphertextDataIntegrityValue ({when})", "none")
    return sealed.integrity_value


def _recomputed(sealed: Sealed) -> bytes:
    """R-CDIV-5: over decoded bytes, without any length."""
    parts = (sealed.aad, sealed.metadata, sealed.iv, sealed.ciphertext, sealed.tag)
    return hashlib.sha256(b"".join(part or b"" for part in parts)).digest()


def _expect_valid_integrity_value(subject: Subject, plaintext: bytes, aad: bytes | None) -> None:
    """The value must be correct, and the ciphertext must decrypt."""
    sealed = seal_sample(subject, plaintext, aad, cdiv=True)
    if sealed is not None:
        when = lengths(plaintext, aad)
        value = _value(sealed, when)
        expect(value == _recomputed(sealed), f"SHA-256 of AAD, metadata, IV, ciphertext and tag ({when})", value.hex())
        expect_decrypts(subject, sealed, plaintext, when)


def _is_returned(subject: Subject) -> None:
    for aad in (None, _AAD):
        when = lengths(_PLAINTEXT, aad)
        found = len(_value(subject.seal(_PLAINTEXT, aad, cdiv=True), when))
        expect(found == _VALUE_BYTES, f"{_VALUE_BYTES} bytes of ciphertextDataIntegrityValue ({when})", found)


def _of_every_length(subject: Subject) -> None:
    for length in PLAINTEXT_LENGTHS:
        for aad in (None, _AAD):
            _expect_valid_integrity_value(subject, sample(length), aad)


def _of_every_aad(subject: Subject) -> None:
    for length in AAD_LENGTHS:
        _expect_valid_integrity_value(subject, _PLAINTEXT, sample(length))
    _expect_valid_integrity_value(subject, sample(MINIMUM_PLAINTEXT_BYTES), sample(MAXIMUM_AAD_BYTES))


def _encrypt_only(subject: Subject) -> None:
    """The proxy cannot verify the ciphertext of this key by decryption."""
    key = required(subject.keys.encrypt_only, "--encrypt-only-key")
    for aad in (_AAD, None):
        when = lengths(_PLAINTEXT, aad)
        expect_success(subject.encrypt(_PLAINTEXT, aad, key_id=key), f"Encrypt with {key} alone, {when}")
        response = subject.encrypt(_PLAINTEXT, aad, cdiv=True, key_id=key)
        expect_error(response, InvalidKeyUsageException, when=f"an integrity value with {key}, {when}")


# --- The composition of AAD and metadata


def _moved(sealed: Sealed) -> Iterator[tuple[str, Sealed]]:
    """Other splits of AAD and metadata, which would be equal without the lengths."""
    aad, metadata = sealed.aad or b"", sealed.metadata or b""
    if metadata:
        yield "all metadata moved into the AAD", replace(sealed, aad=aad + metadata, metadata=None)
        yield "all metadata moved before the AAD", replace(sealed, aad=metadata + aad, metadata=None)
    for count in range(1, len(metadata)):
        moved = replace(sealed, aad=aad + metadata[:count], metadata=metadata[count:])
        yield f"{count} bytes of metadata moved into the AAD", moved
    for count in range(1, MAXIMUM_CIPHERTEXT_METADATA_BYTES - len(metadata) + 1):
        moved = replace(sealed, aad=aad[:-count], metadata=aad[-count:] + metadata)
        yield f"{count} bytes of AAD moved into the metadata", moved


def _nothing_moves(subject: Subject) -> str:
    sealed = subject.seal(_PLAINTEXT, _AAD)
    count = 0
    for what, changed in _moved(sealed):
        count += 1
        expect_error(subject.decrypt(changed), InvalidCiphertextException, when=what)
    return f"{count} moves"


def _swapped(subject: Subject) -> None:
    """AAD and ciphertextMetadata exchanged."""
    aad = b"project=nile"
    sealed = subject.seal(_PLAINTEXT, aad)
    if not sealed.metadata:
        raise NotApplicable("Encrypt returns no ciphertextMetadata")
    changed = replace(sealed, aad=sealed.metadata, metadata=aad)
    expect_error(subject.decrypt(changed), InvalidCiphertextException, when="AAD and metadata swapped")
    expect_decrypts(subject, sealed, _PLAINTEXT, "unchanged")


def _forged(subject: Subject) -> str:
    """AAD with the bytes of a composition, which must be composed again."""
    count = 0
    for aad in (None, _AAD):
        sealed = subject.seal(_PLAINTEXT, aad)
        given, metadata = aad or b"", sealed.metadata or b""
        behind = bytes([len(metadata)]) + metadata
        for forged in (len(given).to_bytes(2, "big") + given + behind, given + behind):
            count += 1
            changed = replace(sealed, aad=forged, metadata=None)
            expect_error(subject.decrypt(changed), InvalidCiphertextException, when=f"AAD {forged[:8].hex()}… forged")
    return f"{count} forgeries"


def _absent_is_empty(subject: Subject) -> str:
    """KMS omits empty members, and a proxy may refuse them (Q-13). If accepted, they should equal absent ones."""
    sealed = subject.seal(_PLAINTEXT)
    seen = {_same_as_absent(subject.decrypt(replace(sealed, aad=b"")), "empty AAD to Decrypt")}
    if not sealed.metadata:
        seen.add(_same_as_absent(subject.decrypt(replace(sealed, metadata=b"")), "empty metadata to Decrypt"))
    emptied = seal_sample(subject, _PLAINTEXT, b"")
    if emptied is None:
        return "refuses what is empty"
    seen.add(
        _same_as_absent(subject.decrypt(replace(emptied, aad=None)), "encrypted with empty AAD, decrypted with none")
    )
    return f"answered {' and '.join(sorted(seen))}"


def _same_as_absent(response: HttpResponse, when: str) -> str:
    if response.status == ValidationException.http_status:
        expect_error(response, ValidationException, when=f"or 200, {when}")
        return "ValidationException"
    expect_success(response, when)
    return "200"


CHECKS: Final[tuple[Check, ...]] = (
    Check("cdiv-returned", ("R-ENC-9",), Level.MUST, "An integrity value is returned if asked for", _is_returned),
    Check(
        "cdiv-value",
        ("R-CDIV-5",),
        Level.MUST,
        "The integrity value is right for every length of plaintext",
        _of_every_length,
    ),
    Check("cdiv-aad", ("R-CDIV-5",), Level.MUST, "The integrity value is right for every length of AAD", _of_every_aad),
    Check(
        "cdiv-encrypt-only-key",
        ("R-CDIV-8",),
        Level.SHOULD,
        "A key that cannot decrypt gives no integrity value",
        _encrypt_only,
    ),
    Check(
        "cdiv-moved",
        ("R-CDIV-2", "R-DEC-3"),
        Level.MUST,
        "Nothing can be moved between AAD and ciphertextMetadata",
        _nothing_moves,
    ),
    Check(
        "cdiv-swapped", ("R-CDIV-2", "R-DEC-3"), Level.MUST, "AAD and ciphertextMetadata cannot be swapped", _swapped
    ),
    Check("cdiv-forged", ("R-CDIV-2", "R-CDIV-3"), Level.MUST, "Lengths are always composed", _forged),
    Check("cdiv-absent", ("R-CDIV-3",), Level.SHOULD, "Absent AAD is empty AAD", _absent_is_empty),
)
