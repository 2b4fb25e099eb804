"""From a KeyId parameter to the KMS key it names."""

from dataclasses import dataclass

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.keystates import require_manageable, shown_state
from xksproxy_tools.kms_emulator.names import KeyName, Region
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyState, KeyStore, KmsKey


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key together with what its state depends on."""

    key: KmsKey
    store: KeyStore | None
    arn: str

    @property
    def state(self) -> KeyState:
        """The state that its users see."""
        return shown_state(self.key, self.store)


class KeyFinder:
    """Finds keys by key id, key ARN, alias name and alias ARN."""

    def __init__(self, database: Database, region: Region) -> None:
        self._database = database
        self.region = region

    def find(self, text: str, account: str, *, alias: bool = True) -> FoundKey:
        """The key that a caller of ``account`` names; ``alias``: an alias may stand for it.

        Raises:
            KmsError: NotFoundException; AccessDeniedException for what is another account's, since key policies are
                not evaluated here and the default one admits only its own account.
        """
        name = self.region.parse_key_id(text, account, alias=alias)
        if name.account != account:
            raise KmsError("AccessDeniedException", f"{text} is a resource of another account")
        key_id = name.name if name.kind == "key" else self._target(name)
        arn = self.region.key_arn(account, key_id)
        key = self._database.key(key_id)
        if key is None or key.account != account:
            raise KmsError("NotFoundException", f"Key '{arn}' does not exist")
        return self.found(key)

    def manageable(self, request: KmsRequest, member: str = "KeyId") -> FoundKey:
        """The key that an operation manages, which is named by key id or ARN.

        Raises:
            KmsError: there is none, or its state forbids the operation (KMSInvalidStateException).
        """
        found = self.find(request.parameters[member], request.caller.account, alias=False)
        require_manageable(request.operation, found.arn, found.state)
        return found

    def found(self, key: KmsKey) -> FoundKey:
        """A key that is known by its record."""
        store = None if key.store_id is None else self._database.key_store(key.store_id)
        return FoundKey(key, store, self.region.key_arn(key.account, key.id))

    def _target(self, name: KeyName) -> str:
        alias = self._database.alias(name.account, name.name)
        if alias is None:
            raise KmsError("NotFoundException", f"Alias {self.region.alias_arn(name.account, name.name)} is not found.")
        return alias.key_id
