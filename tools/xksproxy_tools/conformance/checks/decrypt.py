"""Decrypt (R-DEC-*). Changed ciphertexts are in the chapter on tampering."""

import json
from dataclasses import replace
from typing import Final

from xksproxy.spec.errors import (
    InvalidCiphertextException,
    InvalidKeyUsageException,
    UnsupportedOperationException,
    ValidationException,
    XksError,
)
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES, TAG_BYTES
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error
from xksproxy_tools.conformance.messages import Message, Sealed, decryption
from xksproxy_tools.conformance.outcome import required
from xksproxy_tools.conformance.samples import (
    AAD_LENGTHS,
    PLAINTEXT_LENGTHS,
    expect_decrypts,
    lengths,
    sample,
    seal_sample,
)
from xksproxy_tools.conformance.subject import Subject

_CONNECTIONS: Final = 8
_IV_LENGTHS: Final = (0, 1, 8, 11, 13, 15, 17, 32, 255)
_TAG_LENGTHS: Final = (0, 1, 4, 8, 12, 13, 14, 15, 17, 32)
_METADATA_LENGTHS: Final = (21, 32, 255, 256, 4096)
_LONGER: Final = (MINIMUM_PLAINTEXT_BYTES + 1, 8192, 8193, 16384)
_OTHER_ALGORITHMS: Final = ("AES_CBC", "aes_gcm", "AES_GCM ", "SYMMETRIC_DEFAULT")
_NO_TEXT: Final = (None, 1, True, ["AAAA"], {"a": "b"})
_MALFORMED: Final = (InvalidCiphertextException, ValidationException)
"""The catalogue does not define which of the two is returned for a missing or malformed parameter (Q-3)."""

_AAD: Final = b"project=nile"


# --- What decrypts


def _round_trips(subject: Subject) -> None:
    for length in PLAINTEXT_LENGTHS:
        for aad in (None, sample(MAXIMUM_AAD_BYTES)):
            plaintext = sample(length)
            sealed = seal_sample(subject, plaintext, aad)
            if sealed is not None:
                expect_decrypts(subject, sealed, plaintext, lengths(plaintext, aad))


def _aad_lengths(subject: Subject) -> None:
    plaintext = sample(MINIMUM_PLAINTEXT_BYTES)
    for length in AAD_LENGTHS:
        sealed = seal_sample(subject, plaintext, sample(length))
        if sealed is not None:
            expect_decrypts(subject, sealed, plaintext, lengths(plaintext, sealed.aad))


def _everywhere(subject: Subject) -> None:
    """Each connection may be served by another process."""
    plaintext = sample(100)
    sealed = [subject.seal(plaintext, _AAD) for _ in range(_CONNECTIONS)]
    for _ in range(_CONNECTIONS):
        subject.disconnect()
        for one in sealed:
            expect_decrypts(subject, one, plaintext, "over another connection")


def _after_refusals(subject: Subject) -> None:
    """A refused ciphertext does not affect later requests, for example through the state of an HSM session."""
    plaintext = sample(100)
    sealed = subject.seal(plaintext, _AAD)
    wrong = replace(sealed, tag=bytes(TAG_BYTES))
    for _ in range(_CONNECTIONS):
        expect_error(subject.decrypt(wrong), InvalidCiphertextException, when="another tag")
        expect_decrypts(subject, sealed, plaintext, "after one that was refused")
        expect_decrypts(subject, subject.seal(plaintext), plaintext, "encrypted after one that was refused")


def _longer(subject: Subject) -> str:
    """The bytes were never encrypted, so the proxy should answer InvalidCiphertextException."""
    seen = []
    for length in _LONGER:
        response = subject.decrypt(Sealed(sample(length), iv=bytes(12), tag=bytes(TAG_BYTES)))
        errors = (InvalidCiphertextException, UnsupportedOperationException)
        expect_error(response, *errors, when=f"{length} bytes")
        seen.append(f"{length} bytes: {response.status}")
    return ", ".join(seen)


# --- What is malformed


def _refused(subject: Subject, messages: dict[str, Message], *errors: type[XksError]) -> str:
    """Send invalid messages, by description, and check that one of the errors is returned."""
    seen = set()
    for what, message in messages.items():
        body = expect_error(subject.call(Operation.DECRYPT, message), *errors, when=what)
        seen.add(str(body["errorName"]))
    return f"answered {' and '.join(sorted(seen))}"


def _iv_lengths(subject: Subject) -> str:
    sealed = subject.seal(b"plaintext", _AAD)
    ivs = {f"an IV of {length} bytes": (sealed.iv * 22)[:length] for length in _IV_LENGTHS}
    ivs |= {f"the IV and {length} bytes": sealed.iv + bytes(length) for length in (1, 4)}
    changed = {what: decryption(replace(sealed, iv=iv)) for what, iv in ivs.items()}
    return _refused(subject, changed, *_MALFORMED)


def _tag_lengths(subject: Subject) -> str:
    sealed = subject.seal(b"plaintext", _AAD)
    tags = [(sealed.tag * 2)[:length] for length in _TAG_LENGTHS]
    changed = {f"a tag of {len(tag)} bytes": decryption(replace(sealed, tag=tag)) for tag in tags}
    moved = replace(sealed, ciphertext=sealed.ciphertext + sealed.tag, tag=b"")
    changed["the tag in the ciphertext"] = decryption(moved)
    return _refused(subject, changed, *_MALFORMED)


def _metadata_lengths(subject: Subject) -> str:
    sealed = subject.seal(b"plaintext", _AAD)
    longer = [(sealed.metadata or b"") + bytes(length) for length in _METADATA_LENGTHS]
    changed = {
        f"{len(metadata)} bytes of ciphertextMetadata": decryption(replace(sealed, metadata=metadata))
        for metadata in longer
    }
    return _refused(subject, changed, *_MALFORMED)


def _missing_members(subject: Subject) -> str:
    whole = decryption(subject.seal(b"plaintext", _AAD))
    changed = {
        f"no {name}": {key: value for key, value in whole.items() if key != name}
        for name in ("ciphertext", "initializationVector", "authenticationTag")
    }
    return _refused(subject, changed, *_MALFORMED)


def _wrong_types(subject: Subject) -> str:
    whole = decryption(subject.seal(b"plaintext", _AAD))
    changed = {
        f"{name} {json.dumps(value)}": {**whole, name: value}
        for name in ("ciphertext", "initializationVector", "authenticationTag")
        for value in _NO_TEXT
    }
    return _refused(subject, changed, *_MALFORMED)


def _other_algorithms(subject: Subject) -> str:
    """The catalogue does not define which of two errors is returned (Q-4)."""
    whole = decryption(subject.seal(b"plaintext", _AAD))
    changed = {f"encryptionAlgorithm {value!r}": {**whole, "encryptionAlgorithm": value} for value in _OTHER_ALGORITHMS}
    changed["no encryptionAlgorithm"] = {key: value for key, value in whole.items() if key != "encryptionAlgorithm"}
    return _refused(subject, changed, ValidationException, UnsupportedOperationException)


# --- Keys that cannot decrypt


def _own_ciphertext(subject: Subject) -> None:
    """As in the public test client: a ciphertext of the encrypt-only key."""
    key = required(subject.keys.encrypt_only, "--encrypt-only-key")
    for aad in (None, _AAD):
        sealed = subject.seal(b"plaintext", aad, key_id=key)
        response = subject.decrypt(sealed, key)
        expect_error(response, InvalidKeyUsageException, when=f"Decrypt with {key}, {'with' if aad else 'no'} AAD")


def _impotent(subject: Subject) -> None:
    key = required(subject.keys.impotent, "--impotent-key")
    response = subject.decrypt(subject.seal(b"plaintext"), key)
    expect_error(response, InvalidKeyUsageException, when=f"Decrypt with {key}")


CHECKS: Final[tuple[Check, ...]] = (
    Check("dec-round-trip", ("R-DEC-1", "R-DEC-5"), Level.MUST, "Up to 4300 bytes are decrypted", _round_trips),
    Check("dec-aad", ("R-DEC-1",), Level.MUST, "Up to 8192 bytes of AAD are decrypted", _aad_lengths),
    Check("dec-everywhere", ("R-DEC-1",), Level.MUST, "A ciphertext decrypts over any connection", _everywhere),
    Check(
        "dec-after-refusals", ("R-DEC-1",), Level.MUST, "A refused ciphertext does not affect others", _after_refusals
    ),
    Check(
        "dec-longer",
        ("R-ENC-12", "R-ERR-1"),
        Level.MUST,
        "More than 4300 bytes are checked, or answered 501",
        _longer,
    ),
    Check("dec-iv-length", ("R-DEC-2",), Level.MUST, "An IV of another length is refused", _iv_lengths),
    Check("dec-tag-length", ("R-DEC-2",), Level.MUST, "A tag of another length is refused", _tag_lengths),
    Check("dec-metadata-length", ("R-DEC-2",), Level.MUST, "Longer ciphertextMetadata is refused", _metadata_lengths),
    Check("dec-missing", ("R-DEC-4",), Level.MUST, "Ciphertext, IV and tag are required", _missing_members),
    Check("dec-types", ("R-DEC-4",), Level.MUST, "They must be strings", _wrong_types),
    Check("dec-algorithm", ("R-ENC-3",), Level.MUST, "Only AES_GCM is accepted", _other_algorithms),
    Check("dec-encrypt-only-key", ("R-ERR-1",), Level.MUST, "An encrypt-only key does not decrypt", _own_ciphertext),
    Check("dec-impotent-key", ("R-ERR-1",), Level.MUST, "An impotent key does not decrypt", _impotent),
)
