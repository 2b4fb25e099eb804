"""The state of a KMS key in responses, and the operations that each state allows."""

from collections.abc import Mapping
from typing import Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.kms_errors import not_connected
from xksproxy_tools.kms_emulator.state.records import KeyState, KeyStore, KmsKey

_INVALID_STATE: Final = "KMSInvalidStateException"
_EVERY: Final = frozenset(KeyState)
_NOT_PENDING: Final = _EVERY - {KeyState.PENDING_DELETION}

_ALLOWED: Final[Mapping[str, frozenset[KeyState]]] = {
    "EnableKey": _NOT_PENDING,
    "DisableKey": _NOT_PENDING,
    "ScheduleKeyDeletion": _NOT_PENDING,
    "CancelKeyDeletion": frozenset({KeyState.PENDING_DELETION}),
    "UpdateKeyDescription": _NOT_PENDING,
    "CreateAlias": _NOT_PENDING,
    "UpdateAlias": _NOT_PENDING,
    "TagResource": _NOT_PENDING,
    "UntagResource": _NOT_PENDING,
}
"""Operations that need a certain key state. For UpdateAlias, the state is that of the new target."""


def shown_state(key: KmsKey, store: KeyStore | None) -> KeyState:
    """The KeyState in responses: Unavailable while the key store is not connected, unless pending deletion."""
    if key.state is KeyState.PENDING_DELETION or store is None or store.connected:
        return key.state
    return KeyState.UNAVAILABLE


def require_manageable(operation: str, arn: str, state: KeyState) -> None:
    """Refuse an operation that the key's state forbids.

    Raises:
        KmsError: KMSInvalidStateException.
    """
    if state not in _ALLOWED.get(operation, _EVERY):
        negation = "" if state is KeyState.PENDING_DELETION else "not "
        raise KmsError(_INVALID_STATE, f"{arn} is {negation}pending deletion.")


def require_usable(arn: str, state: KeyState, store: KeyStore | None) -> None:
    """Refuse cryptography with a key that is not Enabled.

    Raises:
        KmsError: DisabledException or KMSInvalidStateException.
    """
    match state:
        case KeyState.DISABLED:
            raise KmsError("DisabledException", f"{arn} is disabled.")
        case KeyState.PENDING_DELETION:
            raise KmsError(_INVALID_STATE, f"{arn} is pending deletion.")
        case KeyState.UNAVAILABLE:
            if store is not None and store.proxy is not None:
                raise not_connected(_INVALID_STATE)
            raise KmsError(_INVALID_STATE, f"{arn} is unavailable. Connect its custom key store, and retry.")
        case KeyState.ENABLED:
            return
