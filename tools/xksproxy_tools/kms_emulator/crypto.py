"""The five cryptographic operations."""

import os
from collections.abc import Mapping
from typing import Any, Final

from xksproxy_tools.kms_emulator.backings import Backings
from xksproxy_tools.kms_emulator.blob import Blob, Header, authenticated_data, pack, unpack
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import FoundKey, KeyFinder
from xksproxy_tools.kms_emulator.keystates import require_usable
from xksproxy_tools.kms_emulator.quotas import StoreQuotas
from xksproxy_tools.kms_emulator.request import KmsRequest

_ALGORITHM: Final = "SYMMETRIC_DEFAULT"
_KEY_BYTES: Final[Mapping[str, int]] = {"AES_256": 32, "AES_128": 16}


class Crypto:
    """Encrypt, Decrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext and ReEncrypt.

    Everything that KMS can judge by itself is judged before a proxy or a cluster is asked.
    """

    def __init__(self, finder: KeyFinder, backings: Backings, quotas: StoreQuotas) -> None:
        self._finder = finder
        self._backings = backings
        self._quotas = quotas

    async def encrypt(self, request: KmsRequest) -> dict[str, Any]:
        """Encrypt: up to 4096 bytes."""
        parameters = request.parameters
        found = self._usable(request, parameters["KeyId"], "EncryptionAlgorithm")
        header, aad = _bound(found, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        blob = await self._seal(request, found, header, parameters["Plaintext"], aad)
        return {"CiphertextBlob": blob, "KeyId": found.arn, "EncryptionAlgorithm": _ALGORITHM}

    async def generate_data_key(self, request: KmsRequest) -> dict[str, Any]:
        """GenerateDataKey: random bytes, in the clear and encrypted."""
        plaintext, result = await self._data_key(request)
        return {**result, "Plaintext": plaintext}

    async def generate_data_key_without_plaintext(self, request: KmsRequest) -> dict[str, Any]:
        """GenerateDataKeyWithoutPlaintext: random bytes, only encrypted."""
        return (await self._data_key(request))[1]

    async def decrypt(self, request: KmsRequest) -> dict[str, Any]:
        """Decrypt: the blob says which key made it."""
        parameters = request.parameters
        found, blob = self._source(request, "KeyId", "EncryptionAlgorithm")
        aad = authenticated_data(blob.header, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = await self._backings.decrypt(request, found, blob.sealed, aad)
        return {"KeyId": found.arn, "Plaintext": plaintext, "EncryptionAlgorithm": _ALGORITHM}

    async def re_encrypt(self, request: KmsRequest) -> dict[str, Any]:
        """ReEncrypt: each half with its own key and its own encryption context; the plaintext stays here."""
        parameters = request.parameters
        source, blob = self._source(request, "SourceKeyId", "SourceEncryptionAlgorithm")
        found = self._usable(request, parameters["DestinationKeyId"], "DestinationEncryptionAlgorithm")
        source_aad = authenticated_data(blob.header, parameters.get("SourceEncryptionContext", {}))
        header, aad = _bound(found, parameters.get("DestinationEncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = await self._backings.decrypt(request, source, blob.sealed, source_aad)
        return {
            "CiphertextBlob": await self._seal(request, found, header, plaintext, aad),
            "SourceKeyId": source.arn,
            "KeyId": found.arn,
            "SourceEncryptionAlgorithm": _ALGORITHM,
            "DestinationEncryptionAlgorithm": _ALGORITHM,
        }

    async def _data_key(self, request: KmsRequest) -> tuple[bytes, dict[str, Any]]:
        parameters = request.parameters
        size = _data_key_bytes(parameters)
        found = self._usable(request, parameters["KeyId"])
        header, aad = _bound(found, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = os.urandom(size)
        blob = await self._seal(request, found, header, plaintext, aad)
        return plaintext, {"CiphertextBlob": blob, "KeyId": found.arn}

    async def _seal(self, request: KmsRequest, found: FoundKey, header: Header, plaintext: bytes, aad: bytes) -> bytes:
        return pack(Blob(header, await self._backings.encrypt(request, found, plaintext, aad)))

    def _source(self, request: KmsRequest, key_member: str, algorithm_member: str) -> tuple[FoundKey, Blob]:
        """The blob of a request and the key that made it, which is the one that the request names, if it names one."""
        parameters, account = request.parameters, request.caller.account
        if "CiphertextBlob" not in parameters:
            raise KmsError("ValidationException", "CiphertextBlob is missing; this emulator cannot do without it")
        blob = unpack(parameters["CiphertextBlob"])
        if key_member in parameters and self._finder.find(parameters[key_member], account).arn != blob.header.key_arn:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a KMS key that can perform this operation.",
            )
        try:
            found = self._usable(request, blob.header.key_arn, algorithm_member)
        except KmsError as error:
            if error.name not in ("NotFoundException", "AccessDeniedException"):
                raise
            raise KmsError(
                "AccessDeniedException",
                "The ciphertext refers to a KMS key that does not exist, does not exist in this Region, "
                "or that you are not allowed to access.",
            ) from None
        if blob.header != _header(found):
            raise KmsError("InvalidCiphertextException", "The ciphertext names other key material than the KMS key has")
        return found, blob

    def _usable(self, request: KmsRequest, key_name: str, algorithm_member: str = "") -> FoundKey:
        """The key, once it is seen that its state, the algorithm and the quota of its store allow the request."""
        found = self._finder.find(key_name, request.caller.account)
        algorithm = request.parameters.get(algorithm_member, _ALGORITHM)
        if algorithm != _ALGORITHM:
            raise KmsError("InvalidKeyUsageException", f"{found.arn} does not support the algorithm {algorithm}")
        if "Recipient" in request.parameters:
            raise KmsError("UnsupportedOperationException", "This emulator has no attested recipients")
        require_usable(found.arn, found.state, found.store)
        if found.store is not None:
            self._quotas.take(found.store.id)
        return found


def _bound(found: FoundKey, encryption_context: Mapping[str, str]) -> tuple[Header, bytes]:
    """The header of a new blob, and what is authenticated with it."""
    header = _header(found)
    return header, authenticated_data(header, encryption_context)


def _header(found: FoundKey) -> Header:
    return Header(found.arn, found.key.backing_key_id)


def _data_key_bytes(parameters: Mapping[str, Any]) -> int:
    if ("KeySpec" in parameters) == ("NumberOfBytes" in parameters):
        raise KmsError("ValidationException", "Please specify either number of bytes or key spec.")
    return int(parameters["NumberOfBytes"]) if "NumberOfBytes" in parameters else _KEY_BYTES[parameters["KeySpec"]]


def _stop_dry_run(request: KmsRequest) -> None:
    if request.parameters.get("DryRun"):
        raise KmsError("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
