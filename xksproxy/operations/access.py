"""The keys of a key store as the operations reach them: an id, its version, and the label on the HSMs."""

from dataclasses import dataclass, replace
from typing import Self

from xksproxy.aead.aad import AadEncoding
from xksproxy.deadline import Deadline
from xksproxy.hsm.keys import TokenKey
from xksproxy.keystore.blocks import Blocks
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.keystore.versions import KeyVersion, KeyVersions
from xksproxy.operations.authorization_check import AuthorizationCheck
from xksproxy.operations.engine import Engine
from xksproxy.operations.translate import hsm_errors_translated
from xksproxy.operations.versions import VersionSearch
from xksproxy.request_stats import current_request_stats
from xksproxy.spec.errors import InvalidCiphertextException, InvalidStateException
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """What a key store exposes, which version of it is meant, and the engine that has it."""

    keys: KeyMap
    versions: KeyVersions
    blocks: Blocks
    search: VersionSearch
    engine: Engine
    usage: UsageBook

    authorization: AuthorizationCheck | None = None
    """What the policies of the key store are asked about this request; None where it has none."""

    def authorized_by(self, authorization: AuthorizationCheck) -> Self:
        """The same for one request that the policies have to admit."""
        return replace(self, authorization=authorization)

    def resolve(self, key_id: str) -> ExternalKey:
        """The key of an id, if the key store exposes it and its policies allow the request.

        Raises:
            KeyNotFoundException: it is not exposed.
            AccessDeniedException: the policies do not allow it.
        """
        key = self.keys.resolve(key_id)
        if self.authorization is not None:
            self.authorization.require()
        return key

    async def enabled_key(self, key_id: str, deadline: Deadline) -> ExternalKey:
        """The key of an id, if the key store exposes it, its policies allow the request, and nothing disables it.

        Raises:
            KeyNotFoundException: it is not exposed, or is disabled and not on the token either.
            AccessDeniedException: the policies do not allow the request.
            InvalidStateException: it is disabled (Q-5) or blocked.
        """
        key = self.resolve(key_id)
        if refusal := self.disabled_by(key):
            with hsm_errors_translated():
                await self.engine.describe_key(self.versions.primary(key).label, deadline)
            raise InvalidStateException(refusal)
        return key

    def disabled_by(self, key: ExternalKey) -> str | None:
        """Why the key must not be used now, or None."""
        if self.blocks.find(key.id) is not None:
            return "The external key is blocked at the proxy by its operator"
        return "The external key is disabled in the proxy's configuration" if key.disabled else None

    def for_encryption(self, key: ExternalKey) -> tuple[KeyVersion, TokenKey]:
        """The primary version, and the key on the HSMs.

        Raises:
            InternalException: which one is primary cannot be told.
        """
        version = self.versions.primary(key)
        _enter(version)
        return version, TokenKey(version.label, key.hedge_after, key.maximum_encryptions)

    async def for_decryption(
        self, key: ExternalKey, metadata: bytes, deadline: Deadline
    ) -> tuple[KeyVersion, AadEncoding]:
        """The version that made a ciphertext, and the encoding of its AAD. One not heard of is searched for.

        Raises:
            InvalidCiphertextException: the metadata does not name a version that exists.
            InvalidStateException: the version is disabled.
            XksError: it cannot be told now.
        """
        version, encoding = self.versions.of_ciphertext(key, metadata)
        _enter(version)
        known = self.versions.is_on_record(key, version.number) or self.engine.has_seen(version.label)
        if not known and not await self.search.finds(key.id, version.label, deadline):
            raise InvalidCiphertextException(f"No HSM has version {version.number} of the external key")
        return version, encoding


def _enter(version: KeyVersion) -> None:
    if account := current_request_stats.get():
        account.key_version = version.number
