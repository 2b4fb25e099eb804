"""The credentials of one key store and the signing keys derived from them."""

import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from xksproxy.sigv4.authorization import CredentialScope
from xksproxy.sigv4.canonical import derive_signing_key

_ACCESS_KEY_ID: Final = re.compile(r"[A-Z2-7]{20,30}")
_SECRET_ACCESS_KEY: Final = re.compile(r"[A-Za-z0-9+/=]{43,64}")
_CACHED_SCOPES: Final = 16
_BASE32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True, slots=True)
class Credential:
    """A SigV4 access key id and secret, shared with KMS and unrelated to IAM (R-AUTH-2). The repr hides the secret."""

    access_key_id: str
    secret_access_key: str = field(repr=False)

    def problem(self) -> str | None:
        """Why KMS would refuse it, or None (R-AUTH-3, R-AUTH-4)."""
        if not _ACCESS_KEY_ID.fullmatch(self.access_key_id):
            return "the access key id must have 20 to 30 characters of A-Z and 2-7"
        if not _SECRET_ACCESS_KEY.fullmatch(self.secret_access_key):
            return "the secret access key must have 43 to 64 characters of A-Z a-z 0-9 + / ="
        return None


def generate_credential() -> Credential:
    """A new credential: 26 random Base32 characters, and 48 random bytes in Base64 (R-AUTH-4, R-AUTH-6)."""
    access_key_id = "".join(secrets.choice(_BASE32) for _ in range(26))
    return Credential(access_key_id, secrets.token_urlsafe(48).replace("-", "+").replace("_", "/"))


def recorded_access_key_id(text: str) -> str:
    """An access key id from a request, for a log. Text that is not an access key id is cut, as it may be a secret."""
    return text if _ACCESS_KEY_ID.fullmatch(text) else f"{text[:4]}… of {len(text)} characters"


class Keyring:
    """The credentials of one key store. Use it on one event loop only.

    Until a scope has had a valid signature, each request in it needs one derivation: of the secret of its id, or of a
    random dummy secret if the id is unknown. The first valid signature in a scope derives the keys of all credentials
    and of the dummy secret. They are kept for the last 16 scopes. So the time of an answer does not show whether an id
    exists, and strangers can neither make the proxy derive all keys nor displace the keys in use.
    """

    def __init__(self, credentials: Iterable[Credential]) -> None:
        self._secrets = {credential.access_key_id: credential.secret_access_key for credential in credentials}
        self._dummy_secret = secrets.token_urlsafe(48)
        self._cache: OrderedDict[CredentialScope, tuple[Mapping[str, bytes], bytes]] = OrderedDict()

    def __contains__(self, access_key_id: object) -> bool:
        return access_key_id in self._secrets

    def signing_key(self, access_key_id: str, scope: CredentialScope) -> tuple[bytes, bool]:
        """The signing key for a scope, and whether the id is known. For an unknown id it is the dummy key."""
        entry = self._cache.get(scope)
        if entry is None:
            secret = self._secrets.get(access_key_id, self._dummy_secret)
            return derive_signing_key(secret, scope), access_key_id in self._secrets
        keys, dummy_key = entry
        return keys.get(access_key_id, dummy_key), access_key_id in keys

    def keep(self, scope: CredentialScope) -> None:
        """Keep the keys of a scope in which a signature was valid."""
        if scope in self._cache:
            self._cache.move_to_end(scope)
            return
        keys = {access_key_id: derive_signing_key(secret, scope) for access_key_id, secret in self._secrets.items()}
        self._cache[scope] = keys, derive_signing_key(self._dummy_secret, scope)
        if len(self._cache) > _CACHED_SCOPES:
            self._cache.popitem(last=False)
