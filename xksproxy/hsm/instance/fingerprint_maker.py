"""Makes the fingerprint of a key at its first use, and finds out whether the key was used under another name."""

import os
from collections.abc import Callable, Mapping
from typing import Protocol

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.errors import CiphertextRejected, CiphertextWrong, NotCounted
from xksproxy.hsm.fingerprint_index import FingerprintIndex, Fingerprints
from xksproxy.hsm.instance.fingerprint_check import FingerprintCheck
from xksproxy.hsm.instance.key_table import KeyTable
from xksproxy.hsm.keys import CANARY_BYTES, KeyDescription, KeyFingerprint, Sealed
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook


class _Encrypt(Protocol):
    def __call__(self, label: str, plaintext: bytes, aad: bytes) -> Sealed: ...


class FingerprintMaker:
    """Makes the fingerprints of the keys of one session.

    ``encrypt`` and ``decrypt`` are those of the session, ``count`` counts an encryption that was made.
    """

    def __init__(
        self,
        keys: KeyTable,
        check: FingerprintCheck,
        index: FingerprintIndex,
        usage: UsageBook,
        *,
        encrypt: _Encrypt,
        decrypt: Callable[[str, Sealed, bytes], bytes],
        count: Callable[[str], None],
    ) -> None:
        self._keys = keys
        self._check = check
        self._index = index
        self._usage = usage
        self._encrypt = encrypt
        self._decrypt = decrypt
        self._count = count

    def make(self, label: str) -> KeyFingerprint:
        """See :meth:`HsmSession.make_fingerprint`."""
        try:
            return self._make(label)
        except StateUnusable as error:
            raise NotCounted(f"the encryptions of the key cannot be counted: {error}") from error

    def _make(self, label: str) -> KeyFingerprint:
        description = self._keys.retry_stale(label, lambda: self._keys.search_again(label).description)
        seen = self._index.earlier(label)
        self._join_counts(label, self._other_name(label, seen) or self._counted_label(label, description))
        both = description.is_aes_256 and description.can_encrypt and description.can_decrypt
        fingerprint = KeyFingerprint(description.check_value, self._canary(label) if both else None)
        if not self._is_one_of(label, self._index.of(label)):
            self._index.add(label, fingerprint)
        # Another process may have used the key under another name meanwhile. The one that is recorded later sees the
        # other one here. Its canary was counted separately, so it is counted once more under the common name.
        late = {name: found for name, found in self._index.earlier(label).items() if seen.get(name) != found}
        if self._join_counts(label, self._other_name(label, late)) and both:
            self._count(label)
        return fingerprint

    def _join_counts(self, label: str, other: str | None) -> bool:
        """Count the encryptions of a name under ``other`` from now on. Returns whether there is another name."""
        if other is not None:
            self._usage.names.join(label, other)
        return other is not None

    def _other_name(self, label: str, others: Mapping[str, Fingerprints]) -> str | None:
        """The first of ``others`` whose record matches the key; None if there is none.

        Two labels are two keys. Only where one of the names has a CKA_ID can they be one.
        """
        has_id = _has_id(label)
        same = [name for name in others if (has_id or _has_id(name)) and self._is_one_of(label, others[name])]
        if same and not has_id:
            # The other name may have joined a label that was recorded before it.
            same = [name for name in others if self._is_one_of(label, others[name])]
        return same[0] if same else None

    def _counted_label(self, label: str, description: KeyDescription) -> str | None:
        """The label of a key that ``label`` names by its CKA_ID, if an older release has counted under the label alone.

        Such a release made no fingerprints. A label with a fingerprint may belong to another key, so it is not used.
        """
        by_label = description.names[0]
        is_other_name = label in description.names[1:]
        if is_other_name and self._usage.read(by_label).encryptions and not self._index.of(by_label):
            return by_label
        return None

    def _is_one_of(self, label: str, fingerprints: Fingerprints) -> bool:
        return self._keys.retry_stale(
            label, lambda: any(self._check.matches(self._keys.find(label), found) for found in fingerprints)
        )

    def _canary(self, label: str) -> Sealed:
        plaintext = os.urandom(CANARY_BYTES)
        canary = self._encrypt(label, plaintext, b"")
        try:
            opened = self._decrypt(label, canary, b"")
        except CiphertextRejected as error:
            raise CiphertextWrong(f"the HSM does not decrypt its own output: {error}") from error
        if opened != plaintext:
            raise CiphertextWrong("what the HSM has just encrypted decrypts to something else")
        return canary


def _has_id(name: str) -> bool:
    return ObjectName.parse(name).object_id is not None
