"""The five cryptographic operations."""

import os
from collections.abc import Mapping
from typing import Any, Final

from xksproxy_tools.kms_emulator.blob import Blob, Header, authenticated_data, pack, unpack
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_backends import KeyBackends
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver, ResolvedKey
from xksproxy_tools.kms_emulator.key_states import require_usable
from xksproxy_tools.kms_emulator.quotas import StoreQuotas
from xksproxy_tools.kms_emulator.request import KmsRequest

_ALGORITHM: Final = "SYMMETRIC_DEFAULT"
_KEY_BYTES: Final[Mapping[str, int]] = {"AES_256": 32, "AES_128": 16}


class Crypto:
    """Encrypt, Decrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext and ReEncrypt.

    All checks that need no proxy and no cluster are made before these are called.
    """

    def __init__(self, resolver: KeyResolver, backends: KeyBackends, quotas: StoreQuotas) -> None:
        self._resolver = resolver
        self._backends = backends
        self._quotas = quotas

    async def encrypt(self, request: KmsRequest) -> dict[str, Any]:
        """Encrypt: up to 4096 bytes."""
        parameters = request.parameters
        resolved = self._usable(request, parameters["KeyId"], "EncryptionAlgorithm")
        header, aad = _header_and_aad(resolved, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        blob = await self._seal(request, resolved, header, parameters["Plaintext"], aad)
        return {"CiphertextBlob": blob, "KeyId": resolved.arn, "EncryptionAlgorithm": _ALGORITHM}

    async def generate_data_key(self, request: KmsRequest) -> dict[str, Any]:
        """GenerateDataKey: random bytes, in plaintext and encrypted."""
        plaintext, result = await self._data_key(request)
        return {**result, "Plaintext": plaintext}

    async def generate_data_key_without_plaintext(self, request: KmsRequest) -> dict[str, Any]:
        """GenerateDataKeyWithoutPlaintext: random bytes, encrypted only."""
        return (await self._data_key(request))[1]

    async def decrypt(self, request: KmsRequest) -> dict[str, Any]:
        """Decrypt: the blob names the key."""
        parameters = request.parameters
        resolved, blob = self._source(request, "KeyId", "EncryptionAlgorithm")
        aad = authenticated_data(blob.header, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = await self._backends.decrypt(request, resolved, blob.sealed, aad)
        return {"KeyId": resolved.arn, "Plaintext": plaintext, "EncryptionAlgorithm": _ALGORITHM}

    async def re_encrypt(self, request: KmsRequest) -> dict[str, Any]:
        """ReEncrypt: decrypt with one key and encryption context, then encrypt with another."""
        parameters = request.parameters
        source, blob = self._source(request, "SourceKeyId", "SourceEncryptionAlgorithm")
        resolved = self._usable(request, parameters["DestinationKeyId"], "DestinationEncryptionAlgorithm")
        source_aad = authenticated_data(blob.header, parameters.get("SourceEncryptionContext", {}))
        header, aad = _header_and_aad(resolved, parameters.get("DestinationEncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = await self._backends.decrypt(request, source, blob.sealed, source_aad)
        return {
            "CiphertextBlob": await self._seal(request, resolved, header, plaintext, aad),
            "SourceKeyId": source.arn,
            "KeyId": resolved.arn,
            "SourceEncryptionAlgorithm": _ALGORITHM,
            "DestinationEncryptionAlgorithm": _ALGORITHM,
        }

    async def _data_key(self, request: KmsRequest) -> tuple[bytes, dict[str, Any]]:
        parameters = request.parameters
        size = _data_key_bytes(parameters)
        resolved = self._usable(request, parameters["KeyId"])
        header, aad = _header_and_aad(resolved, parameters.get("EncryptionContext", {}))
        _stop_dry_run(request)
        plaintext = os.urandom(size)
        blob = await self._seal(request, resolved, header, plaintext, aad)
        return plaintext, {"CiphertextBlob": blob, "KeyId": resolved.arn}

    async def _seal(
        self, request: KmsRequest, resolved: ResolvedKey, header: Header, plaintext: bytes, aad: bytes
    ) -> bytes:
        return pack(Blob(header, await self._backends.encrypt(request, resolved, plaintext, aad)))

    def _source(self, request: KmsRequest, key_member: str, algorithm_member: str) -> tuple[ResolvedKey, Blob]:
        """The blob of a request, and the key that made the blob. If the request names a key, it must be the same."""
        parameters, account = request.parameters, request.caller.account
        if "CiphertextBlob" not in parameters:
            raise KmsError("ValidationException", "CiphertextBlob is missing; this emulator needs it")
        blob = unpack(parameters["CiphertextBlob"])
        if key_member in parameters and self._resolver.find(parameters[key_member], account).arn != blob.header.key_arn:
            raise KmsError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a KMS key that can perform this operation.",
            )
        try:
            resolved = self._usable(request, blob.header.key_arn, algorithm_member)
        except KmsError as error:
            if error.name not in ("NotFoundException", "AccessDeniedException"):
                raise
            raise KmsError(
                "AccessDeniedException",
                "The ciphertext refers to a KMS key that does not exist, does not exist in this Region, "
                "or that you are not allowed to access.",
            ) from None
        if blob.header != _header(resolved):
            raise KmsError(
                "InvalidCiphertextException", "The ciphertext was made with other key material than the KMS key has"
            )
        return resolved, blob

    def _usable(self, request: KmsRequest, key_name: str, algorithm_member: str = "") -> ResolvedKey:
        """The key, after a check that its state, the algorithm and the quota of its key store allow the request."""
        resolved = self._resolver.find(key_name, request.caller.account)
        algorithm = request.parameters.get(algorithm_member, _ALGORITHM)
        if algorithm != _ALGORITHM:
            raise KmsError("InvalidKeyUsageException", f"{resolved.arn} does not support the algorithm {algorithm}")
        if "Recipient" in request.parameters:
            raise KmsError("UnsupportedOperationException", "This emulator does not support Recipient")
        require_usable(resolved.arn, resolved.state, resolved.store)
        if resolved.store is not None:
            self._quotas.take(resolved.store.id)
        return resolved


def _header_and_aad(resolved: ResolvedKey, encryption_context: Mapping[str, str]) -> tuple[Header, bytes]:
    """The header of a new blob, and the data that is authenticated with it."""
    header = _header(resolved)
    return header, authenticated_data(header, encryption_context)


def _header(resolved: ResolvedKey) -> Header:
    return Header(resolved.arn, resolved.key.backing_key_id)


def _data_key_bytes(parameters: Mapping[str, Any]) -> int:
    if ("KeySpec" in parameters) == ("NumberOfBytes" in parameters):
        raise KmsError("ValidationException", "Please specify either number of bytes or key spec.")
    return int(parameters["NumberOfBytes"]) if "NumberOfBytes" in parameters else _KEY_BYTES[parameters["KeySpec"]]


def _stop_dry_run(request: KmsRequest) -> None:
    if request.parameters.get("DryRun"):
        raise KmsError("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
