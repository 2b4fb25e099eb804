"""Requests that are prepared before the load, and the checks of their responses."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Final

import msgspec

from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.limits import IV_BYTES, MAXIMUM_CIPHERTEXT_METADATA_BYTES, TAG_BYTES
from xksproxy.spec.messages import (
    DecryptResponse,
    EncryptResponse,
    ErrorResponse,
    GetHealthStatusResponse,
    GetKeyMetadataResponse,
)
from xksproxy.spec.uri import Operation, compose_path
from xksproxy_tools.load.plan import Destination, Plan

_KMS_OPERATIONS: Final = {
    Operation.GET_HEALTH_STATUS: "KmsHealthCheck",
    Operation.GET_KEY_METADATA: "CreateKey",
    Operation.ENCRYPT: "GenerateDataKey",
    Operation.DECRYPT: "Decrypt",
}
_OK: Final = 200


class RequestResult(msgspec.Struct, frozen=True):
    """The result of a request."""

    name: str
    wrong: bool = False
    """The status is 200, but the content is false. This is worse than any error."""

    def __str__(self) -> str:
        return self.name


OK: Final = RequestResult("ok")


class Request:
    """A signed POST, encoded for sending, and the check of its response."""

    __slots__ = ("_body", "_path", "_response", "_target", "operation", "signed_at", "wire")

    def __init__(
        self, destination: Destination, operation: Operation, message: Mapping[str, Any], response: Any
    ) -> None:
        """``response`` is the type of a successful response. The request is not signed yet."""
        self.operation = operation
        self._target = destination.target
        self._path = compose_path(destination.target.path_prefix, operation, destination.key_id)
        self._body = msgspec.json.encode(
            {"requestMetadata": _metadata(operation, destination.target.region), **message}
        )
        self._response = response
        self.wire = b""
        self.signed_at = float("-inf")

    def sign(self) -> None:
        """Make :attr:`wire` with the date of now; :attr:`signed_at` is on the monotonic clock."""
        self.signed_at = time.monotonic()
        headers = signed_headers(
            self._target.credential,
            self._target.region,
            host=self._target.authority,
            path=self._path,
            body=self._body,
            now=time.time(),
        )
        lines = [f"POST {self._path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        lines.append(f"Content-Length: {len(self._body)}")
        self.wire = ("\r\n".join(lines) + "\r\n\r\n").encode() + self._body

    def check_response(self, status: int, body: bytes) -> RequestResult:
        """Check a response."""
        if status != _OK:
            return RequestResult(f"{status} {_error_name(body)}")
        try:
            answer = msgspec.json.decode(body, type=self._response)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return RequestResult(f"{self.operation.value}: an answer 200 that is not of the specified form", wrong=True)
        problem = self.problem(answer)
        return RequestResult(f"{self.operation.value}: {problem}", wrong=True) if problem else OK

    def problem(self, answer: Any) -> str | None:  # noqa: ARG002 - subclasses use it
        """The error in a response of the right form, or None."""
        return None


class EncryptRequest(Request):
    """An Encrypt. Every member of its response is checked."""

    __slots__ = ("_destination", "aad", "cdiv", "plaintext")

    def __init__(self, destination: Destination, plaintext: bytes, aad: bytes, *, cdiv: bool) -> None:
        self._destination = destination
        self.plaintext, self.aad, self.cdiv = plaintext, aad, cdiv
        message = {"plaintext": plaintext, "encryptionAlgorithm": "AES_GCM", **_aad_field(aad)}
        if cdiv:
            message["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256"
        super().__init__(destination, Operation.ENCRYPT, message, EncryptResponse)

    def problem(self, answer: EncryptResponse) -> str | None:
        """Sizes (R-ENC-4, R-ENC-7, R-ENC-8) and the integrity value (R-CDIV-5)."""
        metadata = answer.ciphertext_metadata or b""
        if len(answer.ciphertext) != len(self.plaintext) or len(answer.authentication_tag) != TAG_BYTES:
            return "ciphertext or tag of a wrong length"
        if len(answer.initialization_vector) not in IV_BYTES or len(metadata) > MAXIMUM_CIPHERTEXT_METADATA_BYTES:
            return "IV or ciphertext metadata of a wrong length"
        if not self.cdiv:
            return None
        sealed = (self.aad, metadata, answer.initialization_vector, answer.ciphertext, answer.authentication_tag)
        if answer.ciphertext_data_integrity_value != hashlib.sha256(b"".join(sealed)).digest():
            return "WRONG INTEGRITY VALUE"
        return None

    def inverse(self, answer: bytes) -> "DecryptRequest":
        """The Decrypt for the body of a successful response."""
        sealed = msgspec.json.decode(answer, type=EncryptResponse)
        return DecryptRequest(self._destination, sealed, self.plaintext, self.aad)


class DecryptRequest(Request):
    """A Decrypt of the response of an Encrypt. It must return the same plaintext."""

    __slots__ = ("plaintext",)

    def __init__(self, destination: Destination, sealed: EncryptResponse, plaintext: bytes, aad: bytes) -> None:
        self.plaintext = plaintext
        message = {
            "ciphertext": sealed.ciphertext,
            "encryptionAlgorithm": "AES_GCM",
            "initializationVector": sealed.initialization_vector,
            "authenticationTag": sealed.authentication_tag,
            **_aad_field(aad),
        }
        if sealed.ciphertext_metadata is not None:
            message["ciphertextMetadata"] = sealed.ciphertext_metadata
        super().__init__(destination, Operation.DECRYPT, message, DecryptResponse)

    def problem(self, answer: DecryptResponse) -> str | None:
        """Whether it is the plaintext (R-DEC-5)."""
        return None if answer.plaintext == self.plaintext else "WRONG PLAINTEXT"


class RequestMaker:
    """Creates requests for a plan. The same seed creates the same requests."""

    def __init__(self, plan: Plan, destinations: Sequence[Destination]) -> None:
        self._plan = plan
        self._destinations = destinations
        self._random = Random(plan.seed)  # noqa: S311 - reproducible plaintexts

    def encrypts(self, count: int) -> list[EncryptRequest]:
        """Create ``count`` Encrypts over all destinations and sizes, with and without an integrity value."""
        plan, random = self._plan, self._random
        asked = round(count * plan.cdiv_percent / 100)
        cdivs = [number < asked for number in range(count)]
        random.shuffle(cdivs)
        return [
            EncryptRequest(
                self._destinations[number % len(self._destinations)],
                random.randbytes(plaintext),
                random.randbytes(aad),
                cdiv=cdiv,
            )
            for number, (plaintext, aad, cdiv) in enumerate(
                zip(
                    plan.plaintext_bytes.distribute(count, random),
                    plan.aad_bytes.distribute(count, random),
                    cdivs,
                    strict=True,
                )
            )
        ]

    def mixed(self, count: int, decrypts: Sequence[DecryptRequest]) -> list[Request]:
        """Create ``count`` requests of the plan's mix. Decrypts are taken from ``decrypts`` in turn."""
        operations = self._plan.mix.distribute(count, self._random)
        encrypts = iter(self.encrypts(operations.count(Operation.ENCRYPT)))
        made: list[Request] = []
        for number, operation in enumerate(operations):
            destination = self._destinations[number % len(self._destinations)]
            if operation is Operation.ENCRYPT:
                made.append(next(encrypts))
            elif operation is Operation.DECRYPT:
                made.append(decrypts[number % len(decrypts)])
            elif operation is Operation.GET_KEY_METADATA:
                made.append(Request(destination, operation, {}, GetKeyMetadataResponse))
            else:
                made.append(Request(destination, operation, {}, GetHealthStatusResponse))
        return made


def _metadata(operation: Operation, region: str) -> dict[str, str]:
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/xksproxy-bench",
        "kmsKeyArn": f"arn:aws:kms:{region}:123456789012:key/00000000-0000-0000-0000-000000000000",
        "kmsOperation": _KMS_OPERATIONS[operation],
        "kmsRequestId": "00000000-0000-4000-8000-000000000000",
    }


def _aad_field(aad: bytes) -> dict[str, bytes]:
    return {"additionalAuthenticatedData": aad} if aad else {}


def _error_name(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=ErrorResponse).error_name[:64]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "without a JSON error body"
