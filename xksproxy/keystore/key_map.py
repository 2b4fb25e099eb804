"""External key ids, mapped to keys on the token."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.key_names import (
    compile_pattern,
    configured_name,
    is_pattern,
    split_version_label,
    version_label,
)
from xksproxy.config.model import MAXIMUM_ENCRYPTIONS, Key
from xksproxy.config.object_names import ObjectName
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.spec.uri import is_key_id

_MAXIMUM_MATCHED: Final = 1024
"""The maximum number of remembered ids that match patterns. Clients can invent any number of them."""


@dataclass(frozen=True, slots=True)
class ExternalKey:
    """One external key: its id in KMS, its versions on the token, and its settings.

    A label here may also be the text of an :class:`ObjectName` with a CKA_ID.
    """

    id: str
    label: str
    """The label of version 1. By the naming rule, the labels of later versions begin with it."""

    disabled: bool
    hedge_after: float | None = None
    """Seconds after which a slow call is sent to a second HSM too."""

    listed_versions: Mapping[int, str] = field(default_factory=dict)
    """Labels by version number, if the configuration lists them. If it is empty, the naming rule applies."""

    aad_encoding: AadEncoding = AadEncoding.PLAIN
    legacy_aad_encoding: AadEncoding = AadEncoding.PLAIN
    """The encoding for ciphertexts whose metadata is not the proxy's."""

    legacy_metadata: frozenset[bytes] = frozenset()
    """Metadata values of another proxy. They mark a ciphertext of version 1."""

    maximum_encryptions: int = MAXIMUM_ENCRYPTIONS
    """The number of encryptions that a version may make on this machine."""

    first_name: str = ""
    """The name of version 1 if it contains a CKA_ID. Empty if the name is the label."""

    @classmethod
    def from_config(cls, key: Key, key_id: str, *, disabled: bool, fleet_size: int) -> Self:
        """Make the external key of an id that a configured key exposes."""
        encoding = AadEncoding(key.aad_encoding)
        legacy = AadEncoding(key.legacy_aad_encoding) if key.legacy_aad_encoding else encoding
        versions = {number: str(ObjectName.parse(name)) for number, name in key.versions.items()}
        name = ObjectName.parse(versions.get(1) or configured_name(key) or key_id)
        return cls(
            id=key_id,
            label=name.label or key_id,
            first_name=str(name) if name.object_id is not None or str(name) != name.label else "",
            disabled=disabled,
            hedge_after=None if key.hedge_after_ms is None else key.hedge_after_ms / 1000,
            listed_versions=versions,
            aad_encoding=encoding,
            legacy_aad_encoding=legacy,
            legacy_metadata=frozenset(key.legacy_metadata),
            maximum_encryptions=max(1, key.maximum_encryptions // fleet_size),
        )

    @property
    def name(self) -> str:
        """The name of version 1 on the token."""
        return self.first_name or self.label

    @property
    def first_version(self) -> int:
        """The lowest version number that the key can have."""
        return min(self.listed_versions) if self.listed_versions else 1

    def label_of(self, version: int) -> str | None:
        """Return the label of a version, or None if the key cannot have such a version."""
        if self.listed_versions:
            return self.listed_versions.get(version)
        if version == 1:
            return self.name
        return version_label(self.label, version) if 1 <= version <= MAXIMUM_VERSION else None

    def version_of(self, label: str) -> int | None:
        """Return the version that has a label, or None."""
        if self.listed_versions:
            return next((number for number, name in self.listed_versions.items() if name == label), None)
        if label == self.name:
            return 1
        split = split_version_label(label)
        return split[1] if split and split[0] == self.label else None


class KeyMap:
    """The external key ids that a key store exposes (R-URI-7). A key with an exact id takes precedence over patterns.

    If a key on the token is exposed under another id, or is a later version of an exposed key, patterns do not expose
    it a second time under its own label.
    """

    def __init__(self, keys: Iterable[Key], fleet_size: int = 1) -> None:
        """``fleet_size`` is the number of machines that share ``maximum_encryptions`` of each key."""
        keys = tuple(keys)
        self._fleet_size = fleet_size
        self._named = {
            key.id: ExternalKey.from_config(key, key.id, disabled=key.disabled, fleet_size=fleet_size)
            for key in keys
            if not is_pattern(key.id)
        }
        self.lists_versions = any(key.versions for key in keys)
        """Whether the versions of a key are listed, so that their labels may be any."""
        self._patterns = tuple((compile_pattern(key.id), key) for key in keys if is_pattern(key.id))
        self._by_label = dict(self._named_labels())
        self.reserved_labels = frozenset(name for name, key in self._by_label.items() if key.version_of(name) is None)
        """Labels with which the names of later versions begin, and that name no version themselves."""
        self._by_stem = {key.label: key for key in reversed(self._named.values()) if not key.listed_versions}
        """Keys to whose later versions the naming rule applies, by the label with which those begin."""
        self._matched: dict[str, ExternalKey] = {}
        """The keys that patterns expose, for the ids that were requested recently."""

    def _named_labels(self) -> Iterator[tuple[str, ExternalKey]]:
        """Pairs of names and keys. If a name occurs several times, its last pair counts.

        That is a key of which the name is a version, before a key that uses it only to name later versions. Of several
        keys, it is the one with this id, and otherwise the first one in the configuration.
        """
        keys = tuple(reversed(self._named.values()))
        names = [(label, key) for key in keys for label in key.listed_versions.values() or _own_names(key)]
        yield from sorted(names, key=_precedence)

    def resolve(self, key_id: str) -> ExternalKey:
        """Return the external key of an id. If several patterns match and one is disabled, the key is disabled.

        Raises:
            KeyNotFoundException: the key store does not expose the id, or it is not a legal key id (Q-12).
        """
        if key := self._named.get(key_id) or self._matched.get(key_id):
            return key
        if (
            key_id not in self._by_label
            and self._key_of_version_label(key_id) is None
            and (key := self._by_pattern(key_id))
        ):
            if len(self._matched) >= _MAXIMUM_MATCHED:
                self._matched.clear()
            self._matched[key_id] = key
            return key
        raise KeyNotFoundException(
            "The key store exposes no external key with this id; check the id and the keys list of the key store"
        )

    def exposes(self, key_id: str) -> bool:
        """Whether the key store exposes an id."""
        try:
            self.resolve(key_id)
        except KeyNotFoundException:
            return False
        return True

    def key_of_label(self, label: str) -> ExternalKey | None:
        """Return the external key that has a version with this label, or None."""
        if key := self._by_label.get(label) or self._key_of_version_label(label):
            return key
        return None if label in self._named else self._by_pattern(label)

    def has_label(self, label: str) -> bool:
        """Whether :meth:`key_of_label` finds a key, in a fraction of the time."""
        if label in self._by_label or self._key_of_version_label(label) is not None:
            return True
        is_free = label not in self._named and is_key_id(label)
        return is_free and any(expression.fullmatch(label) for expression, _ in self._patterns)

    @property
    def names(self) -> Collection[str] | None:
        """The names on tokens that :meth:`key_of_label` can know, those of later versions left out.

        None if there is a pattern, so that they cannot be listed.
        """
        return None if self._patterns else self._by_label.keys()

    def named_keys(self) -> tuple[ExternalKey, ...]:
        """The keys that are configured with an exact id, in the order of the configuration."""
        return tuple(self._named.values())

    def _key_of_version_label(self, label: str) -> ExternalKey | None:
        """The key for which the naming rule gives the label to a second or later version."""
        split = split_version_label(label)
        if split is None:
            return None
        stem = split[0]
        # Another key may list versions and have the same first one. Its list says nothing of the others.
        # Only a legal id recurses, so the maximum length of an id limits the depth.
        key = self._by_stem.get(stem) or (self.key_of_label(stem) if is_key_id(stem) else self._by_label.get(stem))
        return key if key is not None and key.version_of(label) else None

    def _by_pattern(self, key_id: str) -> ExternalKey | None:
        if not is_key_id(key_id):
            return None
        matching = [key for expression, key in self._patterns if expression.fullmatch(key_id)]
        if not matching:
            return None
        disabled = any(key.disabled for key in matching)
        return ExternalKey.from_config(matching[0], key_id, disabled=disabled, fleet_size=self._fleet_size)


def _own_names(key: ExternalKey) -> Iterator[str]:
    """The names that no other external key may have: its name, and the label with which later versions begin."""
    yield key.name
    if key.first_name:
        yield key.label


def _precedence(pair: tuple[str, ExternalKey]) -> tuple[bool, bool]:
    name, key = pair
    return key.version_of(name) is not None, name == key.id
