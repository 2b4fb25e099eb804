"""The operations of KMS that this emulator's keys do not have, refused as KMS refuses them for such keys."""

from collections.abc import Mapping
from typing import Final, NoReturn

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import KeyFinder
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
"""Operations that need another kind of key than a symmetric one in a custom key store, whatever its state."""


class Refusals:
    """Answers every operation that is carried out nowhere else."""

    def __init__(self, finder: KeyFinder) -> None:
        self._finder = finder

    def refuse(self, request: KmsRequest) -> NoReturn:
        """Say why not; a key that is not there comes first.

        Raises:
            KmsError: always.
        """
        operation = request.operation
        error = _OF_A_KEY.get(operation)
        if error is None or "KeyId" not in request.parameters:
            raise KmsError(_UNSUPPORTED, f"This emulator does not carry out {operation}.")
        found = self._finder.find(request.parameters["KeyId"], request.caller.account)
        if error == _WRONG_USAGE:
            raise KmsError(error, f"{found.arn} key usage is ENCRYPT_DECRYPT which is not valid for {operation}.")
        raise KmsError(error, f"{operation} is not supported for {found.arn}, whose origin is {found.key.origin}.")
