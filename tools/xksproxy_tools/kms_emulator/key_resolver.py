"""Finds the KMS key that a KeyId parameter names."""

from dataclasses import dataclass

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_states import require_manageable, shown_state
from xksproxy_tools.kms_emulator.names import KeyName, Region
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyState, KeyStore, KmsKey


@dataclass(frozen=True, slots=True)
class ResolvedKey:
    """A key with its key store, on which its state depends."""

    key: KmsKey
    store: KeyStore | None
    arn: str

    @property
    def state(self) -> KeyState:
        """The KeyState in responses."""
        return shown_state(self.key, self.store)


class KeyResolver:
    """Finds keys by key id, key ARN, alias name or alias ARN."""

    def __init__(self, database: Database, region: Region) -> None:
        self._database = database
        self.region = region

    def find(self, text: str, account: str, *, alias: bool = True) -> ResolvedKey:
        """The key that a caller of ``account`` names. With ``alias``, the name may be an alias.

        Raises:
            KmsError: NotFoundException; AccessDeniedException for a key of another account. Key policies are not
                evaluated, and the default policy allows its own account only.
        """
        name = self.region.parse_key_id(text, account, alias=alias)
        if name.account != account:
            raise KmsError("AccessDeniedException", f"{text} is a resource of another account")
        key_id = name.name if name.kind == "key" else self._target(name)
        arn = self.region.key_arn(account, key_id)
        key = self._database.key(key_id)
        if key is None or key.account != account:
            raise KmsError("NotFoundException", f"Key '{arn}' does not exist")
        return self.resolve_record(key)

    def manageable(self, request: KmsRequest, member: str = "KeyId") -> ResolvedKey:
        """The key that an operation changes, named by key id or ARN.

        Raises:
            KmsError: the key does not exist, or its state forbids the operation (KMSInvalidStateException).
        """
        resolved = self.find(request.parameters[member], request.caller.account, alias=False)
        require_manageable(request.operation, resolved.arn, resolved.state)
        return resolved

    def resolve_record(self, key: KmsKey) -> ResolvedKey:
        """The key of a record."""
        store = None if key.store_id is None else self._database.key_store(key.store_id)
        return ResolvedKey(key, store, self.region.key_arn(key.account, key.id))

    def _target(self, name: KeyName) -> str:
        alias = self._database.alias(name.account, name.name)
        if alias is None:
            raise KmsError("NotFoundException", f"Alias {self.region.alias_arn(name.account, name.name)} is not found.")
        return alias.key_id
