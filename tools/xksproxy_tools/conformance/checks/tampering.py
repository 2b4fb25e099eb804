"""Ciphertexts with one changed part (R-DEC-3, R-DEC-4)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final

from xksproxy.spec.errors import InvalidCiphertextException, ValidationException, XksError
from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error
from xksproxy_tools.conformance.messages import Sealed
from xksproxy_tools.conformance.outcome import NotApplicable, expect
from xksproxy_tools.conformance.samples import expect_decrypts, sample
from xksproxy_tools.conformance.subject import Subject

Change = tuple[str, Sealed]
"""The settings and the main results of a measurement, as names and values."""

_PLAINTEXT: Final = sample(16)
_AAD: Final = b"project=nile"
_OTHER_AAD: Final = b"project=blue"


def _expect_refused(subject: Subject, changes: Iterable[Change], *more: type[XksError]) -> str:
    """Every change must be refused; ``more`` are further allowed errors."""
    count = 0
    for what, changed in changes:
        count += 1
        body = expect_error(subject.decrypt(changed), InvalidCiphertextException, *more, when=what)
        expect("plaintext" not in body, f"no plaintext beside an error ({what})", "one")
    return f"{count} changes" if count > 1 else ""


def _check(change: Callable[[Sealed], Iterator[Change]]) -> Callable[[Subject], str]:
    """A check that changes a ciphertext, and afterwards decrypts the original."""

    def run(subject: Subject) -> str:
        sealed = subject.seal(_PLAINTEXT, _AAD)
        note = _expect_refused(subject, change(sealed))
        expect_decrypts(subject, sealed, _PLAINTEXT, "unchanged")
        return note

    return run


def _flipped(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The position of each bit, and the bytes with that bit inverted."""
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 0x80 >> position % 8
        yield position, bytes(changed)


def _metadata(sealed: Sealed) -> bytes:
    if not sealed.metadata:
        raise NotApplicable("Encrypt returns no ciphertextMetadata")
    return sealed.metadata


# --- Bit by bit


def _ciphertext_bits(sealed: Sealed) -> Iterator[Change]:
    for bit, data in _flipped(sealed.ciphertext):
        yield f"bit {bit} of the ciphertext changed", replace(sealed, ciphertext=data)


def _iv_bits(sealed: Sealed) -> Iterator[Change]:
    for bit, data in _flipped(sealed.iv):
        yield f"bit {bit} of the IV changed", replace(sealed, iv=data)


def _tag_bits(sealed: Sealed) -> Iterator[Change]:
    for bit, data in _flipped(sealed.tag):
        yield f"bit {bit} of the tag changed", replace(sealed, tag=data)


def _aad_bits(sealed: Sealed) -> Iterator[Change]:
    for bit, data in _flipped(_AAD):
        yield f"bit {bit} of the AAD changed", replace(sealed, aad=data)


def _metadata_bits(sealed: Sealed) -> Iterator[Change]:
    for bit, data in _flipped(_metadata(sealed)):
        yield f"bit {bit} of ciphertextMetadata changed", replace(sealed, metadata=data)


# --- Parts removed, added, cut and joined


def _ciphertext_parts(sealed: Sealed) -> Iterator[Change]:
    text = sealed.ciphertext
    yield "ciphertext without its last byte", replace(sealed, ciphertext=text[:-1])
    yield "ciphertext without its first byte", replace(sealed, ciphertext=text[1:])
    yield "ciphertext with one more byte", replace(sealed, ciphertext=text + b"\0")
    yield "ciphertext twice", replace(sealed, ciphertext=text * 2)
    yield "ciphertext in another order", replace(sealed, ciphertext=text[8:] + text[:8])
    yield "the tag at the end of the ciphertext too", replace(sealed, ciphertext=text + sealed.tag)


def _no_ciphertext(subject: Subject) -> str:
    """It is not defined whether an empty ciphertext may be decrypted (Q-13)."""
    sealed = subject.seal(_PLAINTEXT, _AAD)
    return _expect_refused(subject, [("an empty ciphertext", replace(sealed, ciphertext=b""))], ValidationException)


def _aad_parts(sealed: Sealed) -> Iterator[Change]:
    yield "AAD removed", replace(sealed, aad=None)
    yield "AAD without its last byte", replace(sealed, aad=_AAD[:-1])
    yield "AAD without its first byte", replace(sealed, aad=_AAD[1:])
    yield "AAD with one more byte", replace(sealed, aad=_AAD + b"\0")
    yield "a byte before AAD", replace(sealed, aad=b"\0" + _AAD)
    yield "another AAD", replace(sealed, aad=_OTHER_AAD)


def _aad_added(subject: Subject) -> str:
    sealed = subject.seal(_PLAINTEXT)
    return _expect_refused(
        subject, [(f"AAD added, {len(aad)} bytes", replace(sealed, aad=aad)) for aad in (b"\0", _AAD, bytes(8192))]
    )


def _metadata_parts(sealed: Sealed) -> Iterator[Change]:
    metadata = _metadata(sealed)
    yield "ciphertextMetadata removed", replace(sealed, metadata=None)
    yield "ciphertextMetadata without its last byte", replace(sealed, metadata=metadata[:-1])
    yield "ciphertextMetadata without its first byte", replace(sealed, metadata=metadata[1:])
    if len(metadata) < MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        yield "ciphertextMetadata with one more byte", replace(sealed, metadata=metadata + b"\0")
        yield "a byte before ciphertextMetadata", replace(sealed, metadata=b"\0" + metadata)
    yield "ciphertextMetadata of zeros", replace(sealed, metadata=bytes(len(metadata)))


def _metadata_emptied(subject: Subject) -> str:
    """It is not defined whether empty metadata is allowed (Q-13)."""
    sealed = subject.seal(_PLAINTEXT, _AAD)
    _metadata(sealed)
    return _expect_refused(
        subject, [("ciphertextMetadata emptied", replace(sealed, metadata=b""))], ValidationException
    )


def _metadata_replaced(sealed: Sealed) -> Iterator[Change]:
    """Also if Encrypt returns no metadata."""
    for other in (b"\0", b"key_version=2", bytes(MAXIMUM_CIPHERTEXT_METADATA_BYTES)):
        if other != sealed.metadata:
            yield f"{len(other)} bytes of other ciphertextMetadata", replace(sealed, metadata=other)


def _iv_and_tag(sealed: Sealed) -> Iterator[Change]:
    yield "an IV of zeros", replace(sealed, iv=bytes(len(sealed.iv)))
    yield "a tag of zeros", replace(sealed, tag=bytes(TAG_BYTES))
    yield "the IV backwards", replace(sealed, iv=sealed.iv[::-1])
    yield "the tag backwards", replace(sealed, tag=sealed.tag[::-1])


def _two_joined(subject: Subject) -> str:
    """Parts of two ciphertexts of the same plaintext and AAD."""
    one, other = (subject.seal(_PLAINTEXT, _AAD) for _ in range(2))
    changes = [
        ("the ciphertext of another encryption", replace(one, ciphertext=other.ciphertext)),
        ("the IV of another encryption", replace(one, iv=other.iv)),
        ("the tag of another encryption", replace(one, tag=other.tag)),
        ("IV and tag of another encryption", replace(one, iv=other.iv, tag=other.tag)),
    ]
    return _expect_refused(subject, changes)


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "tamper-ciphertext-bits",
        ("R-DEC-4",),
        Level.MUST,
        "Each bit of the ciphertext counts",
        _check(_ciphertext_bits),
    ),
    Check("tamper-iv-bits", ("R-DEC-4",), Level.MUST, "Each bit of the IV counts", _check(_iv_bits)),
    Check("tamper-tag-bits", ("R-DEC-4",), Level.MUST, "Each bit of the tag counts", _check(_tag_bits)),
    Check("tamper-aad-bits", ("R-DEC-4",), Level.MUST, "Each bit of the AAD counts", _check(_aad_bits)),
    Check(
        "tamper-metadata-bits",
        ("R-DEC-3", "R-CDIV-1"),
        Level.MUST,
        "Each bit of ciphertextMetadata counts",
        _check(_metadata_bits),
    ),
    Check(
        "tamper-ciphertext",
        ("R-DEC-4",),
        Level.MUST,
        "A ciphertext cut, lengthened or rearranged is refused",
        _check(_ciphertext_parts),
    ),
    Check("tamper-no-ciphertext", ("R-DEC-4",), Level.MUST, "An empty ciphertext is refused", _no_ciphertext),
    Check("tamper-iv-and-tag", ("R-DEC-4",), Level.MUST, "Another IV or tag is refused", _check(_iv_and_tag)),
    Check(
        "tamper-aad",
        ("R-DEC-4",),
        Level.MUST,
        "AAD removed, cut, lengthened or another is refused",
        _check(_aad_parts),
    ),
    Check("tamper-aad-added", ("R-DEC-4",), Level.MUST, "AAD where there was none is refused", _aad_added),
    Check(
        "tamper-metadata",
        ("R-DEC-3", "R-CDIV-1"),
        Level.MUST,
        "ciphertextMetadata removed, cut or lengthened is refused",
        _check(_metadata_parts),
    ),
    Check(
        "tamper-metadata-emptied",
        ("R-DEC-3", "R-CDIV-1"),
        Level.MUST,
        "ciphertextMetadata without content is refused",
        _metadata_emptied,
    ),
    Check(
        "tamper-metadata-other",
        ("R-DEC-3", "R-CDIV-1"),
        Level.MUST,
        "Other ciphertextMetadata is refused",
        _check(_metadata_replaced),
    ),
    Check("tamper-joined", ("R-DEC-4",), Level.MUST, "Parts of two ciphertexts cannot be combined", _two_joined),
)
