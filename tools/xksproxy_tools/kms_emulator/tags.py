"""TagResource, UntagResource, ListResourceTags."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import KeyFinder
from xksproxy_tools.kms_emulator.listing import page
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database

_RESERVED: Final = "aws:"
_PUNCTUATION: Final = frozenset("_.:/=+-@")
_MAXIMUM_OF_A_KEY: Final = 50
_PAGE: Final = 50


class Tags:
    """The tags of KMS keys; they are named by key id or ARN, never by alias."""

    def __init__(self, database: Database, finder: KeyFinder) -> None:
        self._database = database
        self._finder = finder

    def tag(self, request: KmsRequest) -> None:
        """TagResource: a tag key that is there gets the new value."""
        found = self._finder.manageable(request)
        tags = {**found.key.tags, **checked_tags(request.parameters["Tags"])}
        require_room(tags)
        self._database.put_key(replace(found.key, tags=tags))

    def untag(self, request: KmsRequest) -> None:
        """UntagResource: tag keys that are not there are no error."""
        found = self._finder.manageable(request)
        unwanted = set(request.parameters["TagKeys"])
        tags = {name: value for name, value in found.key.tags.items() if name not in unwanted}
        self._database.put_key(replace(found.key, tags=tags))

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListResourceTags."""
        found = self._finder.find(request.parameters["KeyId"], request.caller.account, alias=False)
        tags = sorted(found.key.tags.items())
        shown, more = page(tags, request.parameters, by=lambda tag: tag[0], limit=_PAGE)
        return {"Tags": [{"TagKey": name, "TagValue": value} for name, value in shown], **more}


def checked_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """A parameter ``Tags`` as keys and values.

    Raises:
        KmsError: TagException, for a key that is reserved or given twice, or a character that tags do not have.
    """
    checked: dict[str, str] = {}
    for tag in tags:
        name, value = tag["TagKey"], tag["TagValue"]
        if name.lower().startswith(_RESERVED):
            raise KmsError("TagException", f"{name}: tag keys that begin with {_RESERVED} are reserved")
        if name in checked:
            raise KmsError("TagException", f"{name}: a tag key can be given once")
        if not _has_legal_characters(name) or not _has_legal_characters(value):
            raise KmsError("TagException", "tags have letters, digits, blanks and _ . : / = + - @")
        checked[name] = value
    return checked


def require_room(tags: Mapping[str, str]) -> None:
    """Refuse more tags than a key can have.

    Raises:
        KmsError: LimitExceededException.
    """
    if len(tags) > _MAXIMUM_OF_A_KEY:
        raise KmsError("LimitExceededException", f"A KMS key can have {_MAXIMUM_OF_A_KEY} tags")


def _has_legal_characters(text: str) -> bool:
    return all(character.isalnum() or character.isspace() or character in _PUNCTUATION for character in text)
