"""Creation, wrapping, unwrapping and destruction of keys on a token, with python-pkcs11."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as binding

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.errors import KeyAmbiguous, KeyMissing, SessionLost, TokenUnavailable
from xksproxy.hsm.pkcs11.module import text_of

_WRAPPINGS: Final = (Mechanism.AES_KEY_WRAP, Mechanism.AES_KEY_WRAP_PAD)
_SESSION_GONE: Final = (binding.SessionHandleInvalid, binding.SessionClosed)
_BOTH: Final = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT


def generate_aes_key(
    session: Any, bits: int, *, name: ObjectName | None, encrypt: bool, decrypt: bool, extractable: bool = False
) -> int:
    """Make a sensitive AES key and return its handle. Unless it is ``extractable``, it never leaves the token.

    Without a name it is a session key, which is destroyed with the session.

    Raises:
        SessionLost: the session is gone.
        TokenUnavailable: the token does not make the key.
    """
    flags = (MechanismFlag.ENCRYPT if encrypt else 0) | (MechanismFlag.DECRYPT if decrypt else 0)
    template = {
        **_protection(extractable=extractable),
        Attribute.ENCRYPT: encrypt,
        Attribute.DECRYPT: decrypt,
    }
    with _failures_translated("the token makes no AES key"):
        key = session.generate_key(
            KeyType.AES,
            bits,
            label=name and name.label,
            id=name and name.object_id,
            store=name is not None,
            capabilities=MechanismFlag(flags),
            template=template,
        )
    return int(key.handle)


def wrap_key(session: Any, label: str, wrapping_label: str) -> bytes:
    """Return a secret key, encrypted under a key that both tokens have (C_WrapKey, RFC 3394 or RFC 5649).

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one key of either label.
        SessionLost: the session is gone.
        TokenUnavailable: the token does not wrap the key; the attributes of one of the two keys may forbid it.
    """
    wrapping, key = _secret_key(session, wrapping_label), _secret_key(session, label)
    with _failures_translated(f"the token does not wrap {label} with {wrapping_label}"):
        return bytes(_first_supported(lambda mechanism: wrapping.wrap_key(key, mechanism=mechanism)))


def unwrap_key(session: Any, wrapped: bytes, name: ObjectName, wrapping_label: str) -> None:
    """Unwrap an AES key on the token. It becomes sensitive and not extractable (C_UnwrapKey).

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one wrapping key.
        SessionLost: the session is gone.
        TokenUnavailable: the token does not unwrap it.
    """
    wrapping = _secret_key(session, wrapping_label)
    with _failures_translated(f"the token does not unwrap a key with {wrapping_label}"):
        _first_supported(
            lambda mechanism: wrapping.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                label=name.label,
                id=name.object_id,
                mechanism=mechanism,
                store=True,
                capabilities=_BOTH,
                template={**_protection(extractable=False), Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
            )
        )


def make_unextractable(session: Any, label: str) -> None:
    """Make a key not extractable. This cannot be undone.

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one key of the label.
        SessionLost: the session is gone.
        TokenUnavailable: the token refuses.
    """
    key = _secret_key(session, label)
    with _failures_translated(f"the token does not make {label} unextractable"):
        key[Attribute.EXTRACTABLE] = False


def destroy_key(session: Any, label: str) -> None:
    """Destroy a key on the token. This cannot be undone.

    Raises:
        KeyMissing, KeyAmbiguous: there is not exactly one key of the label.
        SessionLost: the session is gone.
        TokenUnavailable: the token refuses.
    """
    key = _secret_key(session, label)
    with _failures_translated(f"the token does not remove {label}"):
        key.destroy()


def _protection(*, extractable: bool) -> dict[Attribute, bool]:
    return {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: extractable, Attribute.PRIVATE: True}


def _secret_key(session: Any, label: str) -> Any:
    name = ObjectName.parse(label)
    try:
        with _failures_translated(f"the token does not look for {label}"):
            return session.get_key(object_class=ObjectClass.SECRET_KEY, label=name.label, id=name.object_id)
    except binding.NoSuchKey:
        raise KeyMissing(f"the token has no secret key with the name {label}") from None
    except binding.MultipleObjectsReturned:
        raise KeyAmbiguous(f"several secret keys on the token fit {label}") from None


def _first_supported(operation: Any) -> Any:
    """The result with the first mechanism that the token supports."""
    for mechanism in _WRAPPINGS[:-1]:
        try:
            return operation(mechanism)
        except binding.MechanismInvalid:
            continue
    return operation(_WRAPPINGS[-1])


@contextmanager
def _failures_translated(what: str) -> Iterator[None]:
    try:
        yield
    except (binding.NoSuchKey, binding.MultipleObjectsReturned):
        raise
    except _SESSION_GONE as error:
        raise SessionLost(f"{what}: {text_of(error)}") from error
    except (binding.PKCS11Error, AttributeError) as error:
        # The binding gives a key object only the methods that its attributes allow.
        raise TokenUnavailable(f"{what}: {text_of(error)}") from error
