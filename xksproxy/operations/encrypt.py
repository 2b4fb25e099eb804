"""The operation Encrypt."""

from xksproxy.aead.aad import compose_aad
from xksproxy.aead.cdiv import integrity_prefix
from xksproxy.aead.metadata import CiphertextMetadata
from xksproxy.deadline import Deadline
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.checks import require_algorithm, require_supported_sizes
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.spec.errors import ValidationException
from xksproxy.spec.messages import CDIV_ALGORITHM, EncryptRequest, EncryptResponse


async def encrypt(request: EncryptRequest, key_id: str, access: KeyAccess, deadline: Deadline) -> EncryptResponse:
    """Encrypt with the primary version of an external key (R-ENC-*).

    The ciphertext metadata names the version (R-ENC-8). If the request asks for an integrity value, the result is
    decrypted again and compared before it is returned (R-CDIV-6).

    Raises:
        XksError: see docs/errors.md.
    """
    aad = request.additional_authenticated_data
    require_algorithm(request.encryption_algorithm)
    if request.ciphertext_data_integrity_value_algorithm not in (None, CDIV_ALGORITHM):
        raise ValidationException(f"ciphertextDataIntegrityValueAlgorithm must be {CDIV_ALGORITHM}")
    require_supported_sizes("plaintext", request.plaintext, aad or b"")
    key = await access.enabled_key(key_id, deadline)

    version, token_key = access.for_encryption(key)
    metadata = CiphertextMetadata(version.number, key.aad_encoding).pack()
    composed_aad = compose_aad(aad, metadata, key.aad_encoding)
    integrity = None
    with hsm_errors_translated():
        if request.ciphertext_data_integrity_value_algorithm is None:
            sealed = await access.engine.encrypt(token_key, request.plaintext, composed_aad, deadline)
        else:
            prefix = integrity_prefix(aad or b"", metadata)
            sealed, integrity = await access.engine.encrypt_verified(
                token_key, request.plaintext, composed_aad, prefix, deadline
            )
    return EncryptResponse(
        authentication_tag=sealed.tag,
        ciphertext=sealed.ciphertext,
        ciphertext_metadata=metadata,
        initialization_vector=sealed.iv,
        ciphertext_data_integrity_value=integrity,
    )
