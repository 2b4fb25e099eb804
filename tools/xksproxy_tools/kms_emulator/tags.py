"""TagResource, UntagResource, ListResourceTags."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver
from xksproxy_tools.kms_emulator.pagination import page
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database

_RESERVED: Final = "aws:"
_PUNCTUATION: Final = frozenset("_.:/=+-@")
_MAXIMUM_OF_A_KEY: Final = 50
_PAGE: Final = 50


class Tags:
    """The tags of KMS keys. Keys are named by key id or ARN, not by alias."""

    def __init__(self, database: Database, resolver: KeyResolver) -> None:
        self._database = database
        self._resolver = resolver

    def tag(self, request: KmsRequest) -> None:
        """TagResource. An existing tag gets the new value."""
        resolved = self._resolver.manageable(request)
        tags = {**resolved.key.tags, **checked_tags(request.parameters["Tags"])}
        require_room(tags)
        self._database.put_key(replace(resolved.key, tags=tags))

    def untag(self, request: KmsRequest) -> None:
        """UntagResource. Tag keys that do not exist are ignored."""
        resolved = self._resolver.manageable(request)
        unwanted = set(request.parameters["TagKeys"])
        tags = {name: value for name, value in resolved.key.tags.items() if name not in unwanted}
        self._database.put_key(replace(resolved.key, tags=tags))

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListResourceTags."""
        resolved = self._resolver.find(request.parameters["KeyId"], request.caller.account, alias=False)
        tags = sorted(resolved.key.tags.items())
        shown, more = page(tags, request.parameters, by=lambda tag: tag[0], limit=_PAGE)
        return {"Tags": [{"TagKey": name, "TagValue": value} for name, value in shown], **more}


def checked_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The parameter ``Tags`` as a dictionary.

    Raises:
        KmsError: TagException, for a reserved or repeated tag key, or an invalid character.
    """
    checked: dict[str, str] = {}
    for tag in tags:
        name, value = tag["TagKey"], tag["TagValue"]
        if name.lower().startswith(_RESERVED):
            raise KmsError("TagException", f"{name}: tag keys that begin with {_RESERVED} are reserved")
        if name in checked:
            raise KmsError("TagException", f"{name}: a tag key may appear only once")
        if not _has_legal_characters(name) or not _has_legal_characters(value):
            raise KmsError("TagException", "tags may have letters, digits, spaces and _ . : / = + - @")
        checked[name] = value
    return checked


def require_room(tags: Mapping[str, str]) -> None:
    """Refuse more tags than the limit of a key.

    Raises:
        KmsError: LimitExceededException.
    """
    if len(tags) > _MAXIMUM_OF_A_KEY:
        raise KmsError("LimitExceededException", f"A KMS key can have {_MAXIMUM_OF_A_KEY} tags")


def _has_legal_characters(text: str) -> bool:
    return all(character.isalnum() or character.isspace() or character in _PUNCTUATION for character in text)
