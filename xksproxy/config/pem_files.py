"""Certificates and private keys in PEM, and what is wrong with a file that cannot be loaded."""

import re
import warnings
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from xksproxy.config.regular_file import FileRefused, read_regular_file, text_of
from xksproxy.config.secret import MAXIMUM_SECRET_BYTES

_LINE: Final = re.compile(
    r"^(?P<blanks>[ \t]*)-----(?P<edge>BEGIN|END) (?P<label>[A-Z0-9 ]+)-----(?P<rest>.*)$", re.MULTILINE
)
_NOT_BASE64_LINE: Final = re.compile(r"^[ \t\r]*$|(?P<character>[^\t\n\r -~])", re.MULTILINE)
"""A blank line, or a character that is no part of Base64 lines. OpenSSL refuses them, and `cryptography` skips them."""

_DER_SEQUENCE: Final = b"\x30"
_PKCS12: Final = re.compile(rb"\x30(?:[\x00-\x80]|[\x81-\x84].{1,4}?)\x02\x01\x03\x30", re.DOTALL)
"""A sequence that begins with the version 3 of PKCS#12, and then has a sequence."""
_CERTIFICATE_LABELS: Final = frozenset({"CERTIFICATE", "X509 CERTIFICATE"})
UNREADABLE: Final = (
    *(ValueError, TypeError),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)
"""What `cryptography` raises for a field of a certificate that it cannot read: TypeError for a name of another type."""


def read_certificates(path: Path) -> list[x509.Certificate]:
    """All certificates of a file, in their order. Their extensions may be damaged.

    Raises:
        FileRefused: the file cannot be read or a certificate in it cannot be loaded.
    """
    content = read_regular_file(path).content
    blocks = _blocks(path, content, "certificate", "openssl x509 -inform der")
    if not _CERTIFICATE_LABELS.intersection(blocks):
        raise FileRefused(f"{path}: it holds no certificate in PEM{_instead(blocks)}")
    try:
        return _load_certificates(content)
    except UNREADABLE:
        raise FileRefused(f"{path}: {_damaged_certificate(content)}") from None


def read_private_key(path: Path) -> PrivateKeyTypes:
    """The private key of a file.

    Raises:
        FileRefused: the file cannot be read, or it holds no unencrypted private key.
    """
    content = read_regular_file(path, MAXIMUM_SECRET_BYTES).content
    blocks = _blocks(path, content, "private key", "openssl pkey -inform der")
    if not any(label.endswith("PRIVATE KEY") for label in blocks):
        raise FileRefused(f"{path}: it holds no unencrypted key in PEM{_instead(blocks)}")
    try:
        return serialization.load_pem_private_key(content, None)
    except TypeError:
        raise FileRefused(f"{path}: it is encrypted; expected a key without a passphrase") from None
    except UnsupportedAlgorithm:
        raise FileRefused(f"{path}: its kind of key is not supported; expected an RSA or an ECDSA key") from None
    except ValueError:
        raise FileRefused(f"{path}: it holds no unencrypted key in PEM that can be read; it is damaged") from None


def _blocks(path: Path, content: bytes, what: str, convert: str) -> list[str]:
    """The labels of the PEM blocks, each of which must begin and end.

    Raises:
        FileRefused: the file is not PEM; or a block is indented, is cut off, has text after its first or last line, or
            contains a blank line or a character that is not ASCII.
    """
    if _PKCS12.match(content):
        options = "-nokeys" if what == "certificate" else "-nocerts -nodes"
        raise FileRefused(f"{path}: it is PKCS#12; convert it to PEM with: openssl pkcs12 {options}")
    if content.startswith(_DER_SEQUENCE) and b"-----BEGIN" not in content:
        raise FileRefused(f"{path}: it is in DER; convert it to PEM with: {convert}")
    text = text_of(path, content)
    labels: list[str] = []
    open_label: str | None = None
    content_from = 0
    for match in _LINE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["blanks"]:
            raise FileRefused(f"{path}: line {line} is indented; a PEM line begins at the start of its line")
        if match["rest"].strip():
            # The library `cryptography` accepts this, and OpenSSL, which loads the file in the end, does not.
            raise FileRefused(f"{path}: line {line} does not end after -----{match['edge']} {match['label']}-----")
        if match["edge"] == "BEGIN":
            if open_label is not None:
                raise FileRefused(f"{path}: {_cut_off(what, open_label, len(labels))}")
            open_label = match["label"]
            labels.append(open_label)
            content_from = match.end() + 1
        elif open_label != match["label"]:
            raise FileRefused(f"{path}: line {line} ends a {match['label']} that does not begin")
        else:
            open_label = None
            _check_content(path, text, content_from, match.start() - 1)
    if open_label is not None:
        raise FileRefused(f"{path}: {_cut_off(what, open_label, len(labels))}")
    return labels


def _check_content(path: Path, text: str, begin: int, end: int) -> None:
    """Refuse what OpenSSL does not load. A block with header fields, as old encrypted keys have, is not examined.

    Raises:
        FileRefused: there is a blank line or a character that is not ASCII.
    """
    if ":" in text[begin : text.find("\n", begin)] or not (match := _NOT_BASE64_LINE.search(text, begin, end)):
        return
    line = text.count("\n", 0, match.start()) + 1
    character = match["character"]
    wrong = f"has the character U+{ord(character):04X}" if character else "is blank"
    raise FileRefused(f"{path}: line {line} {wrong}; between its BEGIN and END lines PEM has lines of Base64 only")


def _cut_off(what: str, label: str, number: int) -> str:
    return f"{what} number {number} is cut off: it has no line -----END {label}-----"


def _instead(blocks: list[str]) -> str:
    return f"; it holds a {blocks[0]}" if blocks else ""


def _load_certificates(content: bytes) -> list[x509.Certificate]:
    """Load certificates, and read the fields that `cryptography` does not read before they are used."""
    with warnings.catch_warnings():
        # A warning would show a line of this program's code.
        warnings.simplefilter("ignore")
        certificates = x509.load_pem_x509_certificates(content)
        for certificate in certificates:
            for field in ("version", "issuer", "subject", "not_valid_before_utc", "not_valid_after_utc"):
                getattr(certificate, field)
    return certificates


def _damaged_certificate(content: bytes) -> str:
    """Which certificate of a file cannot be loaded."""
    parts = re.split(rb"(?=-----BEGIN )", content)
    for number, part in enumerate((part for part in parts if part.startswith(b"-----BEGIN ")), 1):
        try:
            _load_certificates(part)
        except UNREADABLE:
            return f"certificate number {number} is damaged and cannot be read"
    return "its certificates cannot be read"
