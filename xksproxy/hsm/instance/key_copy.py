"""Copies a key from one token to another. It is wrapped by a key that both tokens have, never in plaintext."""

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.errors import KeyAmbiguous, KeyRefusesUse
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.key_objects import destroy_key, make_unextractable, unwrap_key, wrap_key


def copy_key(source: HsmSession, target: HsmSession, label: str, wrapping_label: str) -> None:
    """Copy a key to another token, with its label and its CKA_ID. The copy is sensitive and not extractable.

    KMS cannot use a copy that the target does not describe as AES-256. Such a copy is destroyed again.

    Raises:
        KeyAmbiguous: the target has a key of this label already, or a label is not unique.
        KeyMissing: one of the two keys is missing.
        KeyRefusesUse: the target does not report the length of the unwrapped key.
        TokenUnavailable: one of the tokens refuses the operation.
    """
    if any(label in key.names for key in target.list_keys()):
        raise KeyAmbiguous(f"the token already has a key of the name {label!r}")
    described = source.describe_key(label)
    wrapped = wrap_key(source.binding, label, wrapping_label)
    unwrap_key(target.binding, wrapped, ObjectName(described.label, described.object_id), wrapping_label)
    if not target.describe_key(label).is_aes_256:
        destroy_key(target.binding, label)
        raise KeyRefusesUse("the token does not report the unwrapped key as AES-256; the key was destroyed again")


def forbid_extraction(session: HsmSession, label: str) -> None:
    """Make a key not extractable, if it is extractable. This cannot be undone.

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one key of the label.
        TokenUnavailable: the token refuses the change.
    """
    if session.describe_key(label).extractable:
        make_unextractable(session.binding, label)
