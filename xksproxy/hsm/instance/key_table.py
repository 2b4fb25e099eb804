"""The key handles of one session: found by the keys' names, kept, and checked again."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm._native import NativeSession
from xksproxy.hsm.errors import KeyAmbiguous, KeyMissing, KeyRefusesUse, SessionLost
from xksproxy.hsm.keys import KeyDescription
from xksproxy.hsm.pkcs11.attributes import KEY_ATTRIBUTES, KEY_CLASSES, describe, has_attribute, key_template
from xksproxy.hsm.pkcs11.classification import ErrorsClassified, HandleStale
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki
from xksproxy.hsm.pkcs11.quirks import Quirks

_RECHECK_SECONDS: Final = 5.0

Result = TypeVar("Result")


@dataclass(slots=True)
class KnownKey:
    """A key that was found: its handle in this session, and its description when last read."""

    handle: int
    description: KeyDescription
    checked_at: float
    verified_by: object = None
    """The canary that the key has decrypted. A key that is found again must decrypt it again."""

    number: int | None = None
    """The number by which the native session knows it; None if it does not."""


class KeyTable:
    """The keys of one session. Handles are kept, since a search costs time that grows with the number of keys.

    A key is named by the text of an :class:`ObjectName`, which usually is its label. A handle may also come from
    ``hints``: handles by name that another session has found. Some modules have different handles in each session, so
    a hint is used only if its object has the name in this session too.
    ``require_token`` raises if the token is absent or logged out. Then a search finds nothing, as for a missing key.
    """

    def __init__(
        self,
        cryptoki: Cryptoki,
        session: int,
        quirks: Quirks,
        native_session: NativeSession,
        *,
        hints: Callable[[], Mapping[str, int]],
        require_token: Callable[[], None],
    ) -> None:
        self._cryptoki = cryptoki
        self._session = session
        self._native_session = native_session
        self._errors_classified = ErrorsClassified(quirks)
        self._hints = hints
        self._require_token = require_token
        self._known: dict[str, KnownKey] = {}

    def usable(self, label: str, permits: Callable[[KeyDescription], bool]) -> KnownKey:
        """Return the key if it is AES-256 and permits the use. Before it is refused, its attributes are read again.

        Raises:
            KeyMissing, KeyAmbiguous, KeyRefusesUse, HandleStale, SessionLost, TokenUnavailable
        """
        key = self.find(label)
        if key.description.is_aes_256 and permits(key.description):
            return key
        key = self.find(label, known_for=0)
        if not key.description.is_aes_256:
            raise KeyRefusesUse(f"the key is {key.description.spec}, not AES_256")
        if not permits(key.description):
            raise KeyRefusesUse("the key's attributes on the token do not allow this use")
        return key

    def find(self, label: str, *, known_for: float | None = None) -> KnownKey:
        """Return the key with a label: from this table, from the hints, or by a search.

        The attributes of a key in the table are read again after ``known_for`` seconds, by default 5.

        Raises:
            KeyMissing, KeyAmbiguous, HandleStale, SessionLost, TokenUnavailable
        """
        now = time.monotonic()
        key = self._known.get(label)
        if key is None:
            key = self._known[label] = self._hinted(label) or self._searched(label)
        elif now - key.checked_at > (_RECHECK_SECONDS if known_for is None else known_for):
            key.description = self._describe(key.handle, label)
            key.checked_at = now
            if label not in key.description.names:
                raise HandleStale("the handle belongs to another object now")
        return key

    def search_again(self, label: str) -> KnownKey:
        """Return the key with a label, by a new search.

        Raises:
            KeyMissing, KeyAmbiguous, HandleStale, SessionLost, TokenUnavailable
        """
        self.forget(label)
        key = self._known[label] = self._searched(label)
        return key

    def forget(self, label: str) -> None:
        """Drop the handle, so that the next use searches for the key."""
        key = self._known.pop(label, None)
        if key is not None:
            self._revoke(key)

    def doubt(self, label: str) -> None:
        """Let the next use of a key read its attributes again, and let it decrypt its canary again."""
        key = self._known.get(label)
        if key is not None:
            key.checked_at, key.verified_by = -math.inf, None
            self._revoke(key)

    def _revoke(self, key: KnownKey) -> None:
        if key.number is not None:
            self._native_session.revoke_key(key.number)

    def allow_key(self, label: str, number: int, fingerprint: object, *, encrypt: bool) -> None:
        """Allow the native session to use a key that was just used, until its attributes must be read again.

        If ``encrypt`` is false, it may only decrypt. It serves only calls with the same ``fingerprint`` object.
        """
        key = self._known.get(label)
        if key is None:
            return
        key.number = number
        description, until = key.description, key.checked_at + _RECHECK_SECONDS
        usable = description.is_aes_256
        self._native_session.allow_key(
            number,
            key.handle,
            until,
            usable and encrypt and description.can_encrypt,
            usable and description.can_decrypt,
            fingerprint,
        )

    def everything(self) -> list[tuple[int, KeyDescription]]:
        """Handles and descriptions of all secret and private keys of the token, in the order of the token."""
        keys = []
        for handle in self._search(ObjectName()):
            with suppress(HandleStale):  # destroyed since the search
                keys.append((handle, self._describe(handle)))
        return keys

    def search(self, label: str) -> list[int]:
        """The handles of all keys with a name."""
        return self._search(ObjectName.parse(label))

    def _search(self, name: ObjectName) -> list[int]:
        handles: list[int] = []
        for key_class in KEY_CLASSES:
            with self._errors_classified:
                handles += self._cryptoki.find_objects(self._session, key_template(key_class, name))
        return handles

    def retry_stale(self, label: str, function: Callable[[], Result]) -> Result:
        """Run ``function``; if a handle is stale, forget the handle and run it once more."""
        try:
            return function()
        except HandleStale:
            self.forget(label)
        try:
            return function()
        except HandleStale as error:
            raise SessionLost(f"a key handle was refused right after the search: {error}") from error

    def _hinted(self, label: str) -> KnownKey | None:
        handle = self._hints().get(label)
        if handle is None:
            return None
        with suppress(HandleStale):
            description = self._describe(handle, label)
            if label in description.names:
                return KnownKey(handle, description, time.monotonic())
        return None

    def _searched(self, label: str) -> KnownKey:
        self._require_token()  # afterwards it would not show that another thread has logged in meanwhile
        found = [(handle, self._describe(handle, label)) for handle in self.search(label)]
        # A module may find other objects than it was asked for. They must not be used.
        found = [(handle, description) for handle, description in found if label in description.names]
        if len(found) > 1:
            keys = "; ".join(sorted(description.distinction for _, description in found))
            raise KeyAmbiguous(f"{len(found)} keys on the token fit {label}, and none is used: {keys}")
        if not found:
            self._require_token()
            raise KeyMissing("the token has no key of this name")
        handle, description = found[0]
        return KnownKey(handle, description, time.monotonic())

    def _describe(self, handle: int, label: str = "") -> KeyDescription:
        """Read the attributes of a key that has a name. Without a name, it may seem to have no CKA_ID."""
        has = partial(has_attribute, has_id=ObjectName.parse(label).object_id is not None)
        with self._errors_classified:
            return describe(self._cryptoki.read_attributes(self._session, handle, KEY_ATTRIBUTES, has))
