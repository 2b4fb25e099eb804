"""External key ids mapped to key versions on the token."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.key_names import compile_pattern, is_pattern, split_version_label, version_label
from xksproxy.config.model import MAXIMUM_ENCRYPTIONS, Key
from xksproxy.spec.errors import KeyNotFoundException
from xksproxy.spec.uri import is_key_id


@dataclass(frozen=True, slots=True)
class ExternalKey:
    """One key as KMS names it, its versions on the token, and how it is used."""

    id: str
    label: str
    """The label of version 1, and the stem of the others' where the naming rule gives them."""

    disabled: bool
    hedge_after: float | None = None
    """Seconds after which a slow call is sent to a second HSM too."""

    explicit: Mapping[int, str] = field(default_factory=dict)
    """Labels by version number where the configuration lists them; otherwise the naming rule gives them."""

    aad_encoding: AadEncoding = AadEncoding.PLAIN
    legacy_aad_encoding: AadEncoding = AadEncoding.PLAIN
    """Of ciphertexts without metadata of the proxy's own."""

    legacy_metadata: frozenset[bytes] = frozenset()
    """Other metadata that marks a ciphertext of version 1."""

    maximum_encryptions: int = MAXIMUM_ENCRYPTIONS
    """Encryptions that a version may make on this machine."""

    @classmethod
    def of(cls, key: Key, key_id: str, *, disabled: bool, fleet_size: int) -> Self:
        """The external key of an id that a configured key exposes."""
        encoding = AadEncoding(key.aad_encoding)
        legacy = AadEncoding(key.legacy_aad_encoding) if key.legacy_aad_encoding else encoding
        return cls(
            id=key_id,
            label=key.versions.get(1, key_id) if key.versions else key.label or key_id,
            disabled=disabled,
            hedge_after=None if key.hedge_after_ms is None else key.hedge_after_ms / 1000,
            explicit=key.versions,
            aad_encoding=encoding,
            legacy_aad_encoding=legacy,
            legacy_metadata=frozenset(key.legacy_metadata),
            maximum_encryptions=max(1, key.maximum_encryptions // fleet_size),
        )

    @property
    def first_version(self) -> int:
        """The lowest version there can be."""
        return min(self.explicit) if self.explicit else 1

    def label_of(self, version: int) -> str | None:
        """The label of a version; None if there can be none, or the configuration lists the versions without it."""
        if self.explicit:
            return self.explicit.get(version)
        return version_label(self.label, version) if 1 <= version <= MAXIMUM_VERSION else None

    def version_of(self, label: str) -> int | None:
        """The version that a label belongs to, if to any."""
        if self.explicit:
            return next((number for number, name in self.explicit.items() if name == label), None)
        if label == self.label:
            return 1
        split = split_version_label(label)
        return split[1] if split and split[0] == self.label else None


class KeyMap:
    """Which external key ids a key store exposes (R-URI-7). An id named outright goes before patterns.

    A key on the token that is exposed under another id, or is a later version of an exposed key, is not exposed a
    second time under its own label.
    """

    def __init__(self, keys: Iterable[Key], fleet_size: int = 1) -> None:
        """``fleet_size``: the machines that share each key's ``maximum_encryptions``."""
        keys = tuple(keys)
        self._fleet_size = fleet_size
        self._named = {
            key.id: ExternalKey.of(key, key.id, disabled=key.disabled, fleet_size=fleet_size)
            for key in keys
            if not is_pattern(key.id)
        }
        self._patterns = tuple((compile_pattern(key.id), key) for key in keys if is_pattern(key.id))
        self._by_label = dict(self._named_labels())

    def _named_labels(self) -> Iterator[tuple[str, ExternalKey]]:
        """Labels and their keys, the one that counts last: under its own id, or else the one named first."""
        keys = tuple(reversed(self._named.values()))
        claims = [(label, key) for key in keys for label in key.explicit.values() or (key.label,)]
        yield from sorted(claims, key=lambda claim: claim[0] == claim[1].id)

    def resolve(self, key_id: str) -> ExternalKey:
        """The key behind an id; among several patterns that match, one that disables wins.

        Raises:
            KeyNotFoundException: the key store exposes no such key, or no key can have this id (Q-12).
        """
        if key := self._named.get(key_id):
            return key
        if key_id not in self._by_label and self._version_holder(key_id) is None and (key := self._by_pattern(key_id)):
            return key
        raise KeyNotFoundException(
            "The key store exposes no external key of this id; check the key id and its keys list"
        )

    def exposes(self, key_id: str) -> bool:
        """Whether the key store exposes a key of this id."""
        try:
            self.resolve(key_id)
        except KeyNotFoundException:
            return False
        return True

    def holder(self, label: str) -> ExternalKey | None:
        """The external key that a key of this label on the token is, or is a version of."""
        if key := self._by_label.get(label) or self._version_holder(label):
            return key
        return None if label in self._named else self._by_pattern(label)

    def named_keys(self) -> tuple[ExternalKey, ...]:
        """The keys that are named outright, in the order of the configuration."""
        return tuple(self._named.values())

    def _version_holder(self, label: str) -> ExternalKey | None:
        """The key of which a label is a second or later version by the naming rule."""
        split = split_version_label(label)
        if split is None:
            return None
        stem = split[0]
        # Only legal ids go deeper, which bounds how deep.
        key = self.holder(stem) if is_key_id(stem) else self._by_label.get(stem)
        return key if key is not None and key.version_of(label) else None

    def _by_pattern(self, key_id: str) -> ExternalKey | None:
        if not is_key_id(key_id):
            return None
        matching = [key for expression, key in self._patterns if expression.fullmatch(key_id)]
        if not matching:
            return None
        disabled = any(key.disabled for key in matching)
        return ExternalKey.of(matching[0], key_id, disabled=disabled, fleet_size=self._fleet_size)
