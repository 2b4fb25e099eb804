"""The KMS operations that the keys of this emulator do not support. They are refused as KMS refuses them."""

from collections.abc import Mapping
from typing import Final, NoReturn

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver
from xksproxy_tools.kms_emulator.request import KmsRequest

_UNSUPPORTED: Final = "UnsupportedOperationException"
_WRONG_USAGE: Final = "InvalidKeyUsageException"

_OF_A_KEY: Final[Mapping[str, str]] = {
    "GenerateDataKeyPair": _UNSUPPORTED,
    "GenerateDataKeyPairWithoutPlaintext": _UNSUPPORTED,
    "EnableKeyRotation": _UNSUPPORTED,
    "DisableKeyRotation": _UNSUPPORTED,
    "GetKeyRotationStatus": _UNSUPPORTED,
    "ListKeyRotations": _UNSUPPORTED,
    "RotateKeyOnDemand": _UNSUPPORTED,
    "GetParametersForImport": _UNSUPPORTED,
    "ImportKeyMaterial": _UNSUPPORTED,
    "DeleteImportedKeyMaterial": _UNSUPPORTED,
    "ReplicateKey": _UNSUPPORTED,
    "UpdatePrimaryRegion": _UNSUPPORTED,
    "GetPublicKey": _UNSUPPORTED,
    "Sign": _WRONG_USAGE,
    "Verify": _WRONG_USAGE,
    "GenerateMac": _WRONG_USAGE,
    "VerifyMac": _WRONG_USAGE,
    "DeriveSharedSecret": _WRONG_USAGE,
    "Encapsulate": _WRONG_USAGE,
    "Decapsulate": _WRONG_USAGE,
}
"""Operations that need another kind of key than a symmetric encryption key. The state of the key does not matter."""


class UnsupportedOperations:
    """Refuses every operation that the emulator does not execute."""

    def __init__(self, resolver: KeyResolver) -> None:
        self._resolver = resolver

    def refuse(self, request: KmsRequest) -> NoReturn:
        """Refuse a request. A missing key is reported first.

        Raises:
            KmsError: always.
        """
        operation = request.operation
        error = _OF_A_KEY.get(operation)
        if error is None or "KeyId" not in request.parameters:
            raise KmsError(_UNSUPPORTED, f"This emulator does not support {operation}.")
        resolved = self._resolver.find(request.parameters["KeyId"], request.caller.account)
        if error == _WRONG_USAGE:
            raise KmsError(error, f"{resolved.arn} key usage is ENCRYPT_DECRYPT which is not valid for {operation}.")
        raise KmsError(
            error, f"{operation} is not supported for {resolved.arn}, whose origin is {resolved.key.origin}."
        )
