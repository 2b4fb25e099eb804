"""The operation Decrypt."""

from xksproxy.aead.aad import compose_aad
from xksproxy.deadline import Deadline
from xksproxy.hsm.keys import Sealed, TokenKey
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.checks import require_algorithm, require_supported_sizes
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.spec.errors import InvalidCiphertextException
from xksproxy.spec.limits import IV_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy.spec.messages import DecryptRequest, DecryptResponse


async def decrypt(request: DecryptRequest, key_id: str, access: KeyAccess, deadline: Deadline) -> DecryptResponse:
    """Decrypt with the version of an external key that the ciphertext metadata names (R-DEC-*).

    The HSM verifies the whole tag before it returns a plaintext. The tag covers the metadata too.

    Raises:
        XksError: see docs/errors.md.
    """
    aad = request.additional_authenticated_data
    metadata = request.ciphertext_metadata or b""
    require_algorithm(request.encryption_algorithm)
    require_supported_sizes("ciphertext", request.ciphertext, aad or b"")
    _require_possible_lengths(request, metadata)
    key = await access.enabled_key(key_id, deadline)

    version, encoding = await access.for_decryption(key, metadata, deadline)
    sealed = Sealed(request.initialization_vector, request.ciphertext, request.authentication_tag)
    with hsm_errors_translated():
        token_key = TokenKey(version.label, key.hedge_after)
        plaintext = await access.engine.decrypt(token_key, sealed, compose_aad(aad, metadata, encoding), deadline)
    access.usage.record_decryption(version.label)
    return DecryptResponse(plaintext=plaintext)


def _require_possible_lengths(request: DecryptRequest, metadata: bytes) -> None:
    """Refuse lengths that no encryption produces (R-DEC-2, Q-3). PKCS#11 modules return different errors for them."""
    if len(request.initialization_vector) not in IV_BYTES:
        raise InvalidCiphertextException("initializationVector must have 12 or 16 bytes")
    if len(request.authentication_tag) != TAG_BYTES:
        raise InvalidCiphertextException(f"authenticationTag must have {TAG_BYTES} bytes")
    if len(metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
        raise InvalidCiphertextException(
            f"ciphertextMetadata must have at most {MAXIMUM_CIPHERTEXT_METADATA_BYTES} bytes"
        )
