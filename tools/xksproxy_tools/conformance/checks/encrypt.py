"""Encrypt (R-ENC-*); the integrity value is in the chapter on integrity."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from xksproxy.spec.errors import (
    InvalidCiphertextException,
    InvalidKeyUsageException,
    UnsupportedOperationException,
    ValidationException,
)
from xksproxy.spec.limits import (
    IV_BYTES,
    MAXIMUM_AAD_BYTES,
    MAXIMUM_CIPHERTEXT_METADATA_BYTES,
    MINIMUM_PLAINTEXT_BYTES,
    TAG_BYTES,
)
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_success, sealed_of
from xksproxy_tools.conformance.http_connection import ConnectionEnded
from xksproxy_tools.conformance.messages import encryption
from xksproxy_tools.conformance.outcome import expect, required
from xksproxy_tools.conformance.samples import (
    AAD_LENGTHS,
    PLAINTEXT_LENGTHS,
    expect_decrypts,
    lengths,
    sample,
    seal_sample,
)
from xksproxy_tools.conformance.subject import Keys, Subject

_CONNECTIONS: Final = 8
_ENCRYPTIONS: Final = 64
"""On each connection: each may be served by another process, with the same seed for its IVs."""

_LONGER_PLAINTEXTS: Final = (MINIMUM_PLAINTEXT_BYTES + 1, 8192, 8193, 16384)
_LONGER_AAD: Final = (MAXIMUM_AAD_BYTES + 1, 16384)
_BEYOND_TWO_BYTES: Final = 0x10000 + 16
_OTHER_ALGORITHMS: Final = ("AES_CBC", "aes_gcm", "AES_GCM ", "AES_GCM_128", "SYMMETRIC_DEFAULT", "RSAES_OAEP_SHA_256")
_OTHER_HASHES: Final = ("SHA_512", "SHA256", "sha_256", "MD5")
_ONE, _OTHER = b"project=nile", b"project=blue"


# --- Sizes


def _round_trips(subject: Subject) -> str:
    """An empty plaintext may be refused (Q-13). All others must be encrypted and decrypted."""
    notes = ""
    for length in PLAINTEXT_LENGTHS:
        plaintext = sample(length)
        for aad in (None, _ONE):
            sealed = seal_sample(subject, plaintext, aad)
            if sealed is None:
                notes = "refuses 0 bytes"
            else:
                expect_decrypts(subject, sealed, plaintext, lengths(plaintext, aad))
    return notes


def _is_encrypted(subject: Subject) -> None:
    """Two encryptions must differ."""
    plaintext = sample(64)
    first, second = subject.seal(plaintext), subject.seal(plaintext)
    for sealed in (first, second):
        expect(sealed.ciphertext != plaintext, "a ciphertext", "the plaintext as it was")
    expect(first.ciphertext != second.ciphertext, "another ciphertext each time", "the same twice")


def _lengths_are_kept(subject: Subject) -> None:
    """A tag at the end of the ciphertext would make it longer."""
    for length in PLAINTEXT_LENGTHS:
        sealed = seal_sample(subject, sample(length))
        found = length if sealed is None else len(sealed.ciphertext)
        expect(found == length, f"a ciphertext of {length} bytes for as many of plaintext", f"{found} bytes")


def _aad_lengths(subject: Subject) -> None:
    plaintext = sample(32)
    for length in AAD_LENGTHS:
        aad = sample(length)
        sealed = seal_sample(subject, plaintext, aad)
        if sealed is not None:
            expect_decrypts(subject, sealed, plaintext, lengths(plaintext, aad))


def _served_or_unsupported(subject: Subject, plaintext: bytes, aad: bytes | None) -> int:
    response = subject.encrypt(plaintext, aad)
    when = lengths(plaintext, aad)
    if response.status == UnsupportedOperationException.http_status:
        expect_error(response, UnsupportedOperationException, when=when)
        return response.status
    sealed = sealed_of(expect_success(response, f"or 501 UnsupportedOperationException, {when}"), aad)
    expect_decrypts(subject, sealed, plaintext, when)
    return response.status


def _longer_plaintexts(subject: Subject) -> str:
    seen = {length: _served_or_unsupported(subject, sample(length), None) for length in _LONGER_PLAINTEXTS}
    return _by_length(seen)


def _longer_aad(subject: Subject) -> str:
    return _by_length({length: _served_or_unsupported(subject, sample(16), sample(length)) for length in _LONGER_AAD})


def _by_length(seen: dict[int, int]) -> str:
    return ", ".join(f"{length} bytes: {status}" for length, status in seen.items())


def _unwritable_aad(subject: Subject) -> str:
    """The length of this AAD does not fit into two bytes. The proxy may also close the connection."""
    try:
        response = subject.encrypt(sample(16), sample(_BEYOND_TWO_BYTES))
    except ConnectionEnded as error:
        return str(error)
    expect(response.status >= 400, f"a refusal of {_BEYOND_TWO_BYTES} bytes of AAD", response)  # noqa: PLR2004
    return f"answered {response.status}"


# --- Members


def _members(subject: Subject) -> str:
    """Check the sizes; :func:`sealed_of` decodes the members."""
    for length in (1, 16, MINIMUM_PLAINTEXT_BYTES):
        sealed = subject.seal(sample(length), _ONE)
        expect(len(sealed.tag) == TAG_BYTES, f"a tag of {TAG_BYTES} bytes", f"{len(sealed.tag)} bytes")
        found = len(sealed.iv)
        expect(found in IV_BYTES, "an IV of 12 or 16 bytes", f"{found} bytes")
    return f"an IV of {len(sealed.iv)} bytes"


def _metadata_is_short(subject: Subject) -> str:
    sizes = set()
    for aad in (None, _ONE, sample(MAXIMUM_AAD_BYTES)):
        sealed = subject.seal(sample(MINIMUM_PLAINTEXT_BYTES), aad)
        sizes.add(len(sealed.metadata or b""))
    longest = max(sizes)
    expected = f"at most {MAXIMUM_CIPHERTEXT_METADATA_BYTES} bytes of ciphertextMetadata"
    expect(longest <= MAXIMUM_CIPHERTEXT_METADATA_BYTES, expected, f"{longest} bytes")
    return f"{longest} bytes" if longest else "none"


def _ivs_are_unique(subject: Subject) -> str:
    """The same plaintext many times, over several connections."""
    seen: set[bytes] = set()
    for _ in range(_CONNECTIONS):
        subject.disconnect()
        for _ in range(_ENCRYPTIONS):
            iv = subject.seal(b"plaintext", _ONE).iv
            expect(iv not in seen, "an IV that no encryption had before", f"one again, after {len(seen)} encryptions")
            seen.add(iv)
    return f"{len(seen)} encryptions"


# --- AAD


def _aad_is_authenticated(subject: Subject) -> None:
    """The first and the last bit, for every length."""
    for length in AAD_LENGTHS:
        if length:
            aad = sample(length)
            sealed = subject.seal(b"plaintext", aad)
            changed = (aad[:-1] + bytes([aad[-1] ^ 1]), bytes([aad[0] ^ 0x80]) + aad[1:])
            for other in changed:
                response = subject.decrypt(replace(sealed, aad=other))
                expect_error(response, InvalidCiphertextException, when=f"one bit of {length} bytes of AAD changed")


# --- Algorithms


def _other_algorithms(subject: Subject) -> str:
    """The catalogue does not define which of two errors is returned (Q-4)."""
    return _refused_values(subject, "encryptionAlgorithm", _OTHER_ALGORITHMS)


def _other_hashes(subject: Subject) -> str:
    return _refused_values(subject, "ciphertextDataIntegrityValueAlgorithm", _OTHER_HASHES)


def _refused_values(subject: Subject, member: str, values: tuple[str, ...]) -> str:
    seen = set()
    for value in values:
        response = subject.call(Operation.ENCRYPT, {**encryption(b"plaintext"), member: value})
        error = expect_error(response, ValidationException, UnsupportedOperationException, when=f"{member} {value!r}")
        seen.add(error["errorName"])
    return f"answered {' and '.join(sorted(seen))}"


# --- Keys that cannot encrypt


def _refused_by(find: Callable[[Keys], str | None], option: str) -> Callable[[Subject], None]:
    """A check that a key does not encrypt, with and without AAD and integrity value, as in the public test client."""

    def run(subject: Subject) -> None:
        key = required(find(subject.keys), option)
        for aad in (_ONE, None):
            for cdiv in (False, True):
                response = subject.encrypt(b"plaintext", aad, cdiv=cdiv, key_id=key)
                when = f"Encrypt with {key}, {'with' if aad else 'no'} AAD, {'with' if cdiv else 'no'} integrity value"
                expect_error(response, InvalidKeyUsageException, when=when)

    return run


CHECKS: Final[tuple[Check, ...]] = (
    Check("enc-round-trip", ("R-ENC-1",), Level.MUST, "Up to 4300 bytes are encrypted, and decrypt", _round_trips),
    Check(
        "enc-ciphertext",
        ("R-ENC-1",),
        Level.MUST,
        "The ciphertext differs from the plaintext, and each time",
        _is_encrypted,
    ),
    Check("enc-members", ("R-ENC-4", "R-ENC-7"), Level.MUST, "The tag has 16 bytes, the IV 12 or 16", _members),
    Check(
        "enc-length",
        ("R-ENC-5", "R-ENC-6"),
        Level.MUST,
        "The ciphertext is as long as the plaintext",
        _lengths_are_kept,
    ),
    Check("enc-metadata", ("R-ENC-8",), Level.MUST, "ciphertextMetadata has at most 20 bytes", _metadata_is_short),
    Check("enc-iv-unique", ("R-ENC-7",), Level.MUST, "No IV comes twice in 512 encryptions", _ivs_are_unique),
    Check("enc-aad", ("R-ENC-2",), Level.MUST, "AAD of up to 8192 bytes is accepted", _aad_lengths),
    Check("enc-aad-used", ("R-ENC-2",), Level.MUST, "Every bit of the AAD is authenticated", _aad_is_authenticated),
    Check("enc-algorithm", ("R-ENC-3",), Level.MUST, "Only AES_GCM is accepted", _other_algorithms),
    Check("enc-cdiv-algorithm", ("R-ENC-10",), Level.MUST, "Only SHA_256 is accepted", _other_hashes),
    Check(
        "enc-longer-plaintext",
        ("R-ENC-12", "R-ERR-1"),
        Level.MUST,
        "More than 4300 bytes are served, or answered 501",
        _longer_plaintexts,
    ),
    Check(
        "enc-longer-aad",
        ("R-ENC-12", "R-ERR-1"),
        Level.MUST,
        "More than 8192 bytes of AAD are served, or answered 501",
        _longer_aad,
    ),
    Check(
        "enc-unwritable-aad",
        ("R-CDIV-2",),
        Level.MUST,
        "AAD whose length takes more than two bytes is refused",
        _unwritable_aad,
    ),
    Check(
        "enc-decrypt-only-key",
        ("R-ERR-1",),
        Level.MUST,
        "A decrypt-only key does not encrypt",
        _refused_by(lambda keys: keys.decrypt_only, "--decrypt-only-key"),
    ),
    Check(
        "enc-impotent-key",
        ("R-ERR-1",),
        Level.MUST,
        "An impotent key does not encrypt",
        _refused_by(lambda keys: keys.impotent, "--impotent-key"),
    ),
)
