"""Encrypt."""

import hmac

from xksproxy.aead.aad import compose_aad
from xksproxy.aead.cdiv import integrity_value
from xksproxy.deadline import Deadline
from xksproxy.keystore.keymap import KeyMap
from xksproxy.operations.checks import require_algorithm, require_enabled_key, require_supported_sizes
from xksproxy.operations.engine import Engine
from xksproxy.operations.translate import hsm_errors_translated
from xksproxy.spec.errors import InternalException, ValidationException
from xksproxy.spec.messages import CDIV_ALGORITHM, EncryptRequest, EncryptResponse

_NO_METADATA = b""


async def encrypt(
    request: EncryptRequest, key_id: str, keys: KeyMap, engine: Engine, deadline: Deadline
) -> EncryptResponse:
    """Encrypt under an external key (R-ENC-*) and, asked for an integrity value, prove the result (R-CDIV-6).

    Raises:
        XksError: see the catalogue of errors.
    """
    aad = request.additional_authenticated_data or b""
    require_algorithm(request.encryption_algorithm)
    if request.ciphertext_data_integrity_value_algorithm not in (None, CDIV_ALGORITHM):
        raise ValidationException(f"ciphertextDataIntegrityValueAlgorithm must be {CDIV_ALGORITHM}")
    require_supported_sizes("plaintext", request.plaintext, aad)
    key = await require_enabled_key(keys, key_id, engine, deadline)

    composed_aad = compose_aad(aad, _NO_METADATA)
    with hsm_errors_translated():
        sealed = await engine.encrypt(key.label, request.plaintext, composed_aad, deadline, key.hedge_after)
    integrity = None
    if request.ciphertext_data_integrity_value_algorithm is not None:
        # Computed before the proof: what is corrupted in between then fails to decrypt, and is not hashed as right.
        integrity = integrity_value(
            aad=aad, ciphertext_metadata=_NO_METADATA, iv=sealed.iv, ciphertext=sealed.ciphertext, tag=sealed.tag
        )
        with hsm_errors_translated():
            opened = await engine.decrypt(key.label, sealed, composed_aad, deadline, key.hedge_after)
        if not hmac.compare_digest(opened, request.plaintext):
            raise InternalException("The HSM's ciphertext does not decrypt to what was encrypted")
    return EncryptResponse(
        authentication_tag=sealed.tag,
        ciphertext=sealed.ciphertext,
        initialization_vector=sealed.iv,
        ciphertext_data_integrity_value=integrity,
    )
