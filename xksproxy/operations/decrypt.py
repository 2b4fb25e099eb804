"""Decrypt."""

from xksproxy.aead.aad import compose_aad
from xksproxy.deadline import Deadline
from xksproxy.hsm.session import Sealed
from xksproxy.keystore.keymap import KeyMap
from xksproxy.operations.checks import require_algorithm, require_enabled_key, require_supported_sizes
from xksproxy.operations.engine import Engine
from xksproxy.operations.translate import hsm_errors_translated
from xksproxy.spec.errors import InvalidCiphertextException
from xksproxy.spec.limits import IV_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy.spec.messages import DecryptRequest, DecryptResponse


async def decrypt(
    request: DecryptRequest, key_id: str, keys: KeyMap, engine: Engine, deadline: Deadline
) -> DecryptResponse:
    """Decrypt what an external key encrypted (R-DEC-*); nothing is released before the whole tag is verified.

    Raises:
        XksError: see the catalogue of errors.
    """
    aad = request.additional_authenticated_data or b""
    metadata = request.ciphertext_metadata or b""
    require_algorithm(request.encryption_algorithm)
    require_supported_sizes("ciphertext", request.ciphertext, aad)
    _require_possible_lengths(request, metadata)
    key = await require_enabled_key(keys, key_id, engine, deadline)

    sealed = Sealed(request.initialization_vector, request.ciphertext, request.authentication_tag)
    with hsm_errors_translated():
        composed_aad = compose_aad(aad, metadata)
        plaintext = await engine.decrypt(key.label, sealed, composed_aad, deadline, key.hedge_after)
    return DecryptResponse(plaintext=plaintext)


def _require_possible_lengths(request: DecryptRequest, metadata: bytes) -> None:
    """Lengths that no encryption gives (R-DEC-2, Q-3): modules answer them unsteadily, so they never see them."""
    if len(request.initialization_vector) not in IV_BYTES:
        raise InvalidCiphertextException("initializationVector must have 12 or 16 bytes")
    if len(request.authentication_tag) != TAG_BYTES:
        raise InvalidCiphertextException(f"authenticationTag must have {TAG_BYTES} bytes")
    if len(metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise InvalidCiphertextException(
            f"ciphertextMetadata must have at most {MAXIMUM_CIPHERTEXT_METADATA_BYTES} bytes"
        )
