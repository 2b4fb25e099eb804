"""Retirement of a SigV4 credential after KMS has changed to another one."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from xksproxy.config.credentials import (
    CREDENTIAL_SUFFIX,
    RETIRED_SUFFIX,
    StoredCredential,
    credential_directory_lock,
    read_credential_file,
    read_credentials,
    reinstate_credential_file,
    retire_credential_file,
)
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.credential_uses import RECORD_SECONDS, CredentialUses

_DAY_SECONDS: Final = 86_400.0


def retire_credential(
    directory: Path, access_key_id: str, uses: CredentialUses, *, within_days: float, force: bool
) -> Path:
    """Rename the file of a credential so that running workers refuse it, and return the new path (R-AUTH-12).

    The last credential is never retired, not even with ``force``: a key store without a credential is not a valid
    configuration, so running workers would refuse the change and continue to accept the credential.

    Raises:
        RotationRefused: the credential does not exist or is the last one; or, without ``force``, it was used within
            ``within_days`` or no other credential was used after it.
        ConfigError: the directory cannot be read.
        StateUnusable: the record of uses cannot be read.
        OSError: the file cannot be renamed.
    """
    with credential_directory_lock(directory):
        stored = read_credentials(directory)
        retiring = _find(stored, access_key_id)
        others = tuple(item.credential.access_key_id for item in stored if item is not retiring)
        if not others:
            raise RotationRefused(
                f"{access_key_id} is the only credential of the key store; without it every request would fail",
                "create another one first: xksproxy credentials create",
                "if this one is disclosed: create another, give it to KMS, then retire this one with --force",
            )
        if not force:
            _require_unused(access_key_id, others, uses.last_used((access_key_id, *others)), within_days)
        return retire_credential_file(retiring.path)


def reinstate_credential(directory: Path, access_key_id: str) -> Path:
    """Rename the file of a retired credential back, and return its path. It may have been renamed already.

    Raises:
        RotationRefused: no file holds the credential.
        ConfigError: a file cannot be read.
        FileExistsError: another file has the name.
        OSError: the file cannot be renamed.
    """
    with credential_directory_lock(directory):
        for path in sorted(directory.glob(f"*{CREDENTIAL_SUFFIX}*")):
            if path.suffix in (CREDENTIAL_SUFFIX, RETIRED_SUFFIX) and _is_of(path, access_key_id):
                return reinstate_credential_file(path)
    raise RotationRefused(f"{directory} has no file of the credential {access_key_id}")


def _is_of(path: Path, access_key_id: str) -> bool:
    return read_credential_file(path).access_key_id == access_key_id


def _find(stored: Sequence[StoredCredential], access_key_id: str) -> StoredCredential:
    for item in stored:
        if item.credential.access_key_id == access_key_id:
            return item
    existing = ", ".join(item.credential.access_key_id for item in stored)
    raise RotationRefused(f"the key store has no credential {access_key_id}; it has: {existing}")


def _require_unused(
    access_key_id: str, others: Sequence[str], last_used: Mapping[str, float], within_days: float
) -> None:
    used = last_used.get(access_key_id, 0.0)
    days = (time.time() - used) / _DAY_SECONDS
    if days < within_days:
        raise RotationRefused(
            f"{access_key_id} was used {_ago(days)} ago on this machine, which is within {_period(within_days)}",
            "give KMS another credential and wait; xksproxy kms-config prints the command",
            "to retire it anyway, add --force: requests that it signs will then fail with 401",
        )
    # A recorded time may be this much older than the last use, so only a later one shows the order of two uses.
    if not any(last_used.get(other, 0.0) > used + RECORD_SECONDS for other in others):
        raise RotationRefused(
            f"no other credential was certainly used on this machine after {access_key_id}, so KMS may still sign"
            " with it",
            "give KMS another credential and wait until it was used for two minutes: xksproxy credentials list",
            "to retire it anyway, add --force",
        )


def _period(days: float) -> str:
    return "a day" if days == 1 else f"{days:g} days"


def _ago(days: float) -> str:
    hours = 24 * days
    if days >= 1:
        return f"{days:.1f} days"
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(0.0, 60 * hours):.0f} minutes"
