"""Access of the operations to external keys: from a key id to the version and to the key on the HSMs."""

from dataclasses import dataclass, replace
from typing import Self

from xksproxy.aead.aad import AadEncoding
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import KeyRefusesUse
from xksproxy.hsm.keys import TokenKey
from xksproxy.keystore.blocks import Blocks
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.keystore.versions import KeyVersion, KeyVersions
from xksproxy.operations.authorization_check import AuthorizationCheck
from xksproxy.operations.engine import Engine
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.operations.version_search import VersionSearch
from xksproxy.request_stats import current_request_stats
from xksproxy.spec.errors import InvalidCiphertextException, InvalidStateException
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class KeyAccess:
    """The keys, versions and blocks of a key store, and its HSM engine."""

    keys: KeyMap
    versions: KeyVersions
    blocks: Blocks
    search: VersionSearch
    engine: Engine
    usage: UsageBook

    authorization: AuthorizationCheck | None = None
    """The check of one request against the policies of the key store. None if the key store has no policies."""

    def authorized_by(self, authorization: AuthorizationCheck) -> Self:
        """Return a copy for one request, which the policies must allow."""
        return replace(self, authorization=authorization)

    def resolve(self, key_id: str) -> ExternalKey:
        """Return the external key of an id, if the key store exposes it and its policies allow the request.

        Raises:
            KeyNotFoundException: the id is not exposed.
            AccessDeniedException: the policies do not allow the request.
        """
        key = self.keys.resolve(key_id)
        if self.authorization is not None:
            self.authorization.require()
        return key

    async def enabled_key(self, key_id: str, deadline: Deadline) -> ExternalKey:
        """Return the external key of an id, as :meth:`resolve` does, if it is neither disabled nor blocked.

        Raises:
            KeyNotFoundException: the id is not exposed, or the key is disabled and not on the token.
            AccessDeniedException: the policies do not allow the request.
            InvalidStateException: the key is disabled (Q-5) or blocked.
        """
        key = self.resolve(key_id)
        if reason := self.disabled_reason(key):
            label = self.versions.primary(key).label
            if not self.engine.has_seen(label):
                with hsm_errors_translated():
                    await self.engine.describe_key(label, deadline)
            raise InvalidStateException(reason)
        return key

    def disabled_reason(self, key: ExternalKey) -> str | None:
        """Why the key must not be used now, or None."""
        if self.blocks.find(key.id) is not None:
            return "The external key is blocked at the proxy by its operator"
        return "The external key is disabled in the proxy's configuration" if key.disabled else None

    def for_encryption(self, key: ExternalKey) -> tuple[KeyVersion, TokenKey]:
        """Return the primary version and its key on the HSMs.

        Raises:
            InternalException: the primary version is not known.
        """
        version = self.versions.primary(key)
        _record_version(version)
        return version, TokenKey(version.label, key.hedge_after, key.maximum_encryptions)

    async def for_decryption(
        self, key: ExternalKey, metadata: bytes, deadline: Deadline
    ) -> tuple[KeyVersion, AadEncoding]:
        """Return the version that made a ciphertext, and the encoding of its AAD. An unknown version is searched.

        Raises:
            InvalidCiphertextException: the metadata does not name a version that exists.
            InvalidKeyUsageException: the same, and the key may not decrypt: that is checked before the ciphertext.
            InvalidStateException: the version is disabled.
            XksError: the search failed.
        """
        try:
            return await self._version_of(key, metadata, deadline)
        except InvalidCiphertextException:
            await self._require_decryption(key, deadline)
            raise

    async def _version_of(
        self, key: ExternalKey, metadata: bytes, deadline: Deadline
    ) -> tuple[KeyVersion, AadEncoding]:
        version, encoding = self.versions.of_ciphertext(key, metadata)
        _record_version(version)
        is_known = self.versions.is_on_record(key, version.number) or self.engine.has_seen(version.label)
        if not is_known and not await self.search.exists(key.id, version.label, deadline):
            raise InvalidCiphertextException(f"No HSM has version {version.number} of the external key")
        return version, encoding

    async def _require_decryption(self, key: ExternalKey, deadline: Deadline) -> None:
        """Require that the primary version may decrypt, as its attributes on an HSM say."""
        label = self.versions.primary(key).label
        with hsm_errors_translated():
            description = await self.engine.describe_key(label, deadline)
            if not (description.is_aes_256 and description.can_decrypt):
                raise KeyRefusesUse(f"the key {label} may not decrypt")


def _record_version(version: KeyVersion) -> None:
    if stats := current_request_stats.get():
        stats.key_version = version.number
