"""Request messages of the API, as KMS sends them."""

import base64
import uuid
from dataclasses import dataclass
from typing import Any, Final

from xksproxy.spec.messages import CDIV_ALGORITHM, ENCRYPTION_ALGORITHM
from xksproxy.spec.uri import Operation

Message = dict[str, Any]

KMS_OPERATIONS: Final = {
    Operation.GET_HEALTH_STATUS: "KmsHealthCheck",
    Operation.GET_KEY_METADATA: "CreateKey",
    Operation.ENCRYPT: "Encrypt",
    Operation.DECRYPT: "Decrypt",
}
"""The usual ``kmsOperation`` of each API."""


def encoded(data: bytes) -> str:
    """Base64 with padding (R-REQ-8)."""
    return base64.b64encode(data).decode("ascii")


def request_metadata(operation: Operation, region: str = "us-east-1") -> Message:
    """A ``requestMetadata`` with exactly the members that an API requires."""
    members = {"kmsRequestId": str(uuid.uuid4()), "kmsOperation": KMS_OPERATIONS[operation]}
    if operation is not Operation.GET_HEALTH_STATUS:
        members["awsPrincipalArn"] = "arn:aws:iam::123456789012:user/conformance"
    if operation in (Operation.ENCRYPT, Operation.DECRYPT):
        members["kmsKeyArn"] = f"arn:aws:kms:{region}:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    return members


def metadata_only(operation: Operation) -> Message:
    """A request with ``requestMetadata`` only, which is complete for GetHealthStatus and GetKeyMetadata."""
    return {"requestMetadata": request_metadata(operation)}


def encryption(plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False) -> Message:
    """An Encrypt request."""
    message = metadata_only(Operation.ENCRYPT)
    message |= {"plaintext": encoded(plaintext), "encryptionAlgorithm": ENCRYPTION_ALGORITHM}
    if aad is not None:
        message["additionalAuthenticatedData"] = encoded(aad)
    if cdiv:
        message["ciphertextDataIntegrityValueAlgorithm"] = CDIV_ALGORITHM
    return message


@dataclass(frozen=True, slots=True)
class Sealed:
    """The decoded response of Encrypt, with the AAD of the request. Absent members are None."""

    ciphertext: bytes
    iv: bytes
    tag: bytes
    metadata: bytes | None = None
    aad: bytes | None = None
    integrity_value: bytes | None = None


def decryption(sealed: Sealed) -> Message:
    """The Decrypt request for the output of an encryption."""
    message = metadata_only(Operation.DECRYPT)
    message |= {
        "ciphertext": encoded(sealed.ciphertext),
        "encryptionAlgorithm": ENCRYPTION_ALGORITHM,
        "initializationVector": encoded(sealed.iv),
        "authenticationTag": encoded(sealed.tag),
    }
    if sealed.metadata is not None:
        message["ciphertextMetadata"] = encoded(sealed.metadata)
    if sealed.aad is not None:
        message["additionalAuthenticatedData"] = encoded(sealed.aad)
    return message
