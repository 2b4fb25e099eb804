"""The states of a key version, and what changes them. docs/key-versions.md has the same table."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from xksproxy.state.versions import VersionRecord


class VersionState(StrEnum):
    """The state of one version of an external key on one machine."""

    PLANNED = "planned"
    """A rotation has recorded its number; the token has no key of it."""

    MADE = "made"
    """The token has its key; it is not verified yet."""

    PROVEN = "proven"
    """Every HSM has its key and decrypts with it; it does not encrypt yet."""

    PRIMARY = "primary"
    """It encrypts, and decrypts. At its maximum, only Decrypt is left."""

    FORMER = "former"
    """It decrypts."""

    DISABLED = "disabled"
    """It does nothing."""

    FULL = "full"
    """It decrypts, and has made as many encryptions as it may."""

    ABANDONED = "abandoned"
    """Its number is not used again. It decrypts, if its key is there."""


TRANSITIONS: Final[Mapping[tuple[VersionState, VersionState], str]] = {
    (VersionState.PLANNED, VersionState.MADE): "`keys rotate` makes the key",
    (VersionState.PLANNED, VersionState.ABANDONED): "`keys rotate --abandon`",
    (VersionState.PLANNED, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.MADE, VersionState.PROVEN): "every HSM has the key and decrypts a canary",
    (VersionState.MADE, VersionState.ABANDONED): "`keys rotate --abandon`",
    (VersionState.MADE, VersionState.FORMER): "its key cannot be used; the next rotation makes another one",
    (VersionState.MADE, VersionState.PLANNED): "its key is removed from the token",
    (VersionState.MADE, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.PROVEN, VersionState.PRIMARY): "`keys rotate`, `--activate`",
    (VersionState.PROVEN, VersionState.MADE): "a new verification begins",
    (VersionState.PROVEN, VersionState.ABANDONED): "`keys rotate --abandon`",
    (VersionState.PROVEN, VersionState.FORMER): "another version is prepared; `--abandon`, if it was primary before",
    (VersionState.PROVEN, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.PROVEN, VersionState.FULL): "it reaches its maximum",
    (VersionState.PRIMARY, VersionState.FORMER): "another version becomes primary",
    (VersionState.PRIMARY, VersionState.FULL): "another version becomes primary",
    (VersionState.FORMER, VersionState.PROVEN): "`keys rotate --version`",
    (VersionState.FORMER, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.FORMER, VersionState.FULL): "it reaches its maximum",
    (VersionState.FULL, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.FULL, VersionState.FORMER): "`maximum_encryptions` is raised",
    (VersionState.ABANDONED, VersionState.DISABLED): "`keys disable-version`",
    (VersionState.DISABLED, VersionState.ABANDONED): "`keys enable-version`, if it was abandoned before",
    (VersionState.DISABLED, VersionState.FORMER): "`keys enable-version`",
    (VersionState.DISABLED, VersionState.PROVEN): "`keys enable-version`, if it was prepared before",
    (VersionState.DISABLED, VersionState.MADE): "`keys enable-version`, if it was made before",
    (VersionState.DISABLED, VersionState.PLANNED): "`keys enable-version`, if its key is removed",
    (VersionState.DISABLED, VersionState.FULL): "`keys enable-version`",
}
"""What changes a state into another one. `state restore` may lead to any state, but from disabled to none."""


def state_of(number: int, record: VersionRecord, *, exists: bool, full: bool) -> VersionState:
    """The state of a version. ``exists``: the token has its key; ``full``: it has made its maximum of encryptions."""
    if number in record.disabled:
        return VersionState.DISABLED
    if number == record.primary:
        return VersionState.PRIMARY
    if number in record.abandoned:
        return VersionState.ABANDONED
    if full:
        return VersionState.FULL
    unproven = VersionState.MADE if exists else VersionState.PLANNED
    if number == record.pending:
        return VersionState.PROVEN if number in record.proven else unproven
    is_later = number > record.primary and number not in record.proven
    return VersionState.PLANNED if is_later and not exists else VersionState.FORMER
