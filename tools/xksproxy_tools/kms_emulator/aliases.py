"""CreateAlias, UpdateAlias, DeleteAlias, ListAliases."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import FoundKey, KeyFinder
from xksproxy_tools.kms_emulator.listing import page
from xksproxy_tools.kms_emulator.names import ALIAS_PREFIX
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import Alias

_RESERVED: Final = f"{ALIAS_PREFIX}aws/"
_MAXIMUM_OF_A_KEY: Final = 50
_PAGE: Final = 50


class Aliases:
    """The aliases of KMS keys. An alias belongs to an account and points to one key of it."""

    def __init__(self, database: Database, finder: KeyFinder, clock: Callable[[], float]) -> None:
        self._database = database
        self._finder = finder
        self._clock = clock

    def create(self, request: KmsRequest) -> None:
        """CreateAlias."""
        account, name = request.caller.account, _checked_name(request)
        found = self._finder.manageable(request, "TargetKeyId")
        if self._database.alias(account, name) is not None:
            arn = self._finder.region.alias_arn(account, name)
            raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")
        self._require_room(found)
        now = self._clock()
        self._database.put_alias(Alias(account, name, found.key.id, now, now))

    def update(self, request: KmsRequest) -> None:
        """UpdateAlias: points an alias to another key."""
        alias = self._existing(request)
        found = self._finder.manageable(request, "TargetKeyId")
        if found.key.id != alias.key_id:
            self._require_room(found)
        self._database.put_alias(replace(alias, key_id=found.key.id, updated=self._clock()))

    def delete(self, request: KmsRequest) -> None:
        """DeleteAlias: whatever the state of the key."""
        alias = self._existing(request)
        self._database.delete_alias(alias.account, alias.name)

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListAliases: of the account, or of one key."""
        account, parameters = request.caller.account, request.parameters
        if "KeyId" in parameters:
            found = self._finder.find(parameters["KeyId"], account, alias=False)
            aliases = self._database.aliases_of(found.key.id)
        else:
            aliases = self._database.aliases(account)
        shown, more = page(aliases, parameters, by=lambda alias: alias.name, limit=_PAGE)
        return {"Aliases": [self._entry(alias) for alias in shown], **more}

    def _entry(self, alias: Alias) -> dict[str, Any]:
        return {
            "AliasName": alias.name,
            "AliasArn": self._finder.region.alias_arn(alias.account, alias.name),
            "TargetKeyId": alias.key_id,
            "CreationDate": alias.created,
            "LastUpdatedDate": alias.updated,
        }

    def _existing(self, request: KmsRequest) -> Alias:
        account, name = request.caller.account, _checked_name(request)
        alias = self._database.alias(account, name)
        if alias is None:
            arn = self._finder.region.alias_arn(account, name)
            raise KmsError("NotFoundException", f"Alias {arn} is not found.")
        return alias

    def _require_room(self, found: FoundKey) -> None:
        if len(self._database.aliases_of(found.key.id)) >= _MAXIMUM_OF_A_KEY:
            raise KmsError("LimitExceededException", f"{found.arn} has {_MAXIMUM_OF_A_KEY} aliases already")


def _checked_name(request: KmsRequest) -> str:
    """The AliasName; what the pattern of the model lets through and AWS does not is refused here."""
    name: str = request.parameters["AliasName"]
    if not name.removeprefix(ALIAS_PREFIX) or not name.startswith(ALIAS_PREFIX) or ":" in name:
        raise KmsError(
            "ValidationException", f'Alias must start with the prefix "{ALIAS_PREFIX}" and have no colon: {name}'
        )
    if name.startswith(_RESERVED):
        raise KmsError("InvalidAliasNameException", f"{name}: names that begin with {_RESERVED} are reserved")
    return name
