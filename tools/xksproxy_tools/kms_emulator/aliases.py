"""CreateAlias, UpdateAlias, DeleteAlias, ListAliases."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver, ResolvedKey
from xksproxy_tools.kms_emulator.names import ALIAS_PREFIX
from xksproxy_tools.kms_emulator.pagination import page
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import Alias

_RESERVED: Final = f"{ALIAS_PREFIX}aws/"
_MAXIMUM_OF_A_KEY: Final = 50
_PAGE: Final = 50


class Aliases:
    """The aliases of KMS keys. An alias belongs to an account and points to one key of it."""

    def __init__(self, database: Database, resolver: KeyResolver, clock: Callable[[], float]) -> None:
        self._database = database
        self._resolver = resolver
        self._clock = clock

    def create(self, request: KmsRequest) -> None:
        """CreateAlias."""
        account, name = request.caller.account, _checked_name(request)
        resolved = self._resolver.manageable(request, "TargetKeyId")
        if self._database.alias(account, name) is not None:
            arn = self._resolver.region.alias_arn(account, name)
            raise KmsError("AlreadyExistsException", f"An alias with the name {arn} already exists")
        self._require_room(resolved)
        now = self._clock()
        self._database.put_alias(Alias(account, name, resolved.key.id, now, now))

    def update(self, request: KmsRequest) -> None:
        """UpdateAlias: points an alias to another key."""
        alias = self._existing(request)
        resolved = self._resolver.manageable(request, "TargetKeyId")
        if resolved.key.id != alias.key_id:
            self._require_room(resolved)
        self._database.put_alias(replace(alias, key_id=resolved.key.id, updated=self._clock()))

    def delete(self, request: KmsRequest) -> None:
        """DeleteAlias. It works in every key state."""
        alias = self._existing(request)
        self._database.delete_alias(alias.account, alias.name)

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListAliases: of the account, or of one key."""
        account, parameters = request.caller.account, request.parameters
        if "KeyId" in parameters:
            resolved = self._resolver.find(parameters["KeyId"], account, alias=False)
            aliases = self._database.aliases_of(resolved.key.id)
        else:
            aliases = self._database.aliases(account)
        shown, more = page(aliases, parameters, by=lambda alias: alias.name, limit=_PAGE)
        return {"Aliases": [self._entry(alias) for alias in shown], **more}

    def _entry(self, alias: Alias) -> dict[str, Any]:
        return {
            "AliasName": alias.name,
            "AliasArn": self._resolver.region.alias_arn(alias.account, alias.name),
            "TargetKeyId": alias.key_id,
            "CreationDate": alias.created,
            "LastUpdatedDate": alias.updated,
        }

    def _existing(self, request: KmsRequest) -> Alias:
        account, name = request.caller.account, _checked_name(request)
        alias = self._database.alias(account, name)
        if alias is None:
            arn = self._resolver.region.alias_arn(account, name)
            raise KmsError("NotFoundException", f"Alias {arn} is not found.")
        return alias

    def _require_room(self, resolved: ResolvedKey) -> None:
        if len(self._database.aliases_of(resolved.key.id)) >= _MAXIMUM_OF_A_KEY:
            raise KmsError("LimitExceededException", f"{resolved.arn} has {_MAXIMUM_OF_A_KEY} aliases already")


def _checked_name(request: KmsRequest) -> str:
    """The AliasName, checked for what the pattern in botocore's model accepts and AWS refuses."""
    name: str = request.parameters["AliasName"]
    if not name.removeprefix(ALIAS_PREFIX) or not name.startswith(ALIAS_PREFIX) or ":" in name:
        raise KmsError(
            "ValidationException",
            f'Alias must start with the prefix "{ALIAS_PREFIX}" and must not contain a colon: {name}',
        )
    if name.startswith(_RESERVED):
        raise KmsError("InvalidAliasNameException", f"{name}: names that begin with {_RESERVED} are reserved")
    return name
