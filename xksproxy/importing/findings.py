"""Findings that the import reports besides the files that it writes."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """The kind of a finding. The value is its name in JSON."""

    TO_DO = "to-do"
    """Someone must act before the proxy can serve, or serve safely."""

    DIFFERENT = "different"
    """The setting was imported, and has a different meaning or effect here."""

    NO_COUNTERPART = "no-counterpart"
    """The setting was not imported."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. No field holds a secret.

    ``setting`` is the key in the imported file, such as ``pkcs11.user_pin``. ``place`` is the key in the
    configuration of this proxy, such as ``hsm[0].pin``, or empty.
    """

    severity: Severity
    setting: str
    text: str
    place: str = ""


def to_do(setting: str, text: str, place: str = "") -> Finding:
    """A finding that someone must act on."""
    return Finding(Severity.TO_DO, setting, text, place)


def different(setting: str, text: str, place: str = "") -> Finding:
    """A finding on a setting that was imported and differs."""
    return Finding(Severity.DIFFERENT, setting, text, place)


def no_counterpart(setting: str, text: str) -> Finding:
    """A finding on a setting that was not imported."""
    return Finding(Severity.NO_COUNTERPART, setting, text)
