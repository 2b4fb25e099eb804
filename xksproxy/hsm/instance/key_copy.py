"""Copying a key from one token to another under a wrapping key that lies on both: it is never seen outside."""

from xksproxy.hsm.errors import KeyAmbiguous, KeyRefusesUse
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.key_objects import destroy_key, make_unextractable, unwrap_key, wrap_key


def copy_key(source: HsmSession, target: HsmSession, label: str, wrapping_label: str) -> None:
    """Put the key of a label on another token, where it is sensitive and not extractable.

    A copy that the target does not describe as AES-256 is of no use to KMS, and is removed again.

    Raises:
        KeyAmbiguous: the target has a key of this label already, or a label is not unique.
        KeyMissing: one of the two keys is not there.
        KeyRefusesUse: the target does not tell the length of what it unwrapped.
        TokenUnavailable: one of the tokens does not do it.
    """
    if any(key.label == label for key in target.list_keys()):
        raise KeyAmbiguous(f"the token already has a key of the label {label!r}")
    wrapped = wrap_key(source.binding, label, wrapping_label)
    unwrap_key(target.binding, wrapped, label, wrapping_label)
    if not target.describe_key(label).is_aes_256:
        destroy_key(target.binding, label)
        raise KeyRefusesUse("the token does not tell that the key it unwrapped is AES-256; it was removed again")


def forbid_extraction(session: HsmSession, label: str) -> None:
    """Make a key not extractable, for good; one that is so already stays as it is.

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one key of the label.
        TokenUnavailable: the token refuses.
    """
    if session.describe_key(label).extractable:
        make_unextractable(session.binding, label)
