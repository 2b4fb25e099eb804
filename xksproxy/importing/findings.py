"""What an importer tells besides the files it writes."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """What a finding asks of its reader; the value is its name in JSON."""

    TO_DO = "to-do"
    """Nothing can be served, or nothing safely, before someone has done it."""

    DIFFERENT = "different"
    """It was carried over, and means or does something else here."""

    NO_COUNTERPART = "no-counterpart"
    """It was not carried over."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know. No field ever holds a secret.

    ``setting`` is the key in the imported file, such as ``pkcs11.user_pin``; ``place`` the key of our configuration
    that it is about, such as ``hsm[0].pin``, or empty.
    """

    severity: Severity
    setting: str
    text: str
    place: str = ""


def to_do(setting: str, text: str, place: str = "") -> Finding:
    """A finding that someone must act on."""
    return Finding(Severity.TO_DO, setting, text, place)


def different(setting: str, text: str, place: str = "") -> Finding:
    """A finding on something that was carried over and differs."""
    return Finding(Severity.DIFFERENT, setting, text, place)


def no_counterpart(setting: str, text: str) -> Finding:
    """A finding on something that was left behind."""
    return Finding(Severity.NO_COUNTERPART, setting, text)
