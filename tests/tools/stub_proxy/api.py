"""The four APIs, done rightly."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stub_proxy.http import Request, Response, json_response
from stub_proxy.signature import authenticate
from stub_proxy.world import Store, StubKey, World
from xksproxy.spec.errors import (
    InternalException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    InvalidStateException,
    InvalidUriPathException,
    KeyNotFoundException,
    UnsupportedOperationException,
    ValidationException,
    XksError,
)
from xksproxy.spec.uri import ApiPath, Operation, parse_path

if TYPE_CHECKING:
    from stub_proxy.behaviour import Behaviour

CLIENT_NAME = "cks.kms.us-east-1.amazonaws.com"


@dataclass(frozen=True, slots=True)
class Call:
    """An authenticated request whose body is a JSON object."""

    behaviour: "Behaviour"
    store: Store
    route: ApiPath
    message: dict[str, Any]

    def text(self, name: str) -> str | None:
        """A member that is a string, or None if it is absent."""
        if name not in self.message:
            return None
        return self.behaviour.read_text(name, self.message[name])

    def data(self, name: str) -> bytes | None:
        """A member in Base64, decoded, or None if it is absent."""
        text = self.text(name)
        return None if text is None else self.behaviour.decode_base64(name, text)

    def required_data(self, name: str) -> bytes:
        data = self.data(name)
        if data is None:
            raise ValidationException(f"{name} is missing")
        return data


def answer(world: World, behaviour: "Behaviour", request: Request, now: float) -> Response:
    """The order of checks; whatever happens, the answer is JSON."""
    early = behaviour.intercept(request)
    if early is not None:
        return behaviour.finish(request, early)
    try:
        response = json_response(200, _result(world, behaviour, request, now))
    except MethodRefused:
        response = json_response(405, {"errorName": "UnsupportedOperationException"})
    except XksError as error:
        response = failure(error)
    except Exception as error:  # noqa: BLE001 - the answer is JSON all the same
        world.crashes.append(error)
        response = failure(InternalException(type(error).__name__))
    return behaviour.finish(request, response)


def failure(error: XksError) -> Response:
    return json_response(error.http_status, {"errorName": error.name, "errorMessage": error.message})


def _result(world: World, behaviour: "Behaviour", request: Request, now: float) -> dict[str, Any]:
    route = behaviour.find_route(request.target)
    store = world.store(route.prefix)
    if store is None:
        raise InvalidUriPathException("no such key store")
    behaviour.check_method(request)
    authenticate(request, store, behaviour.signature, now, world.stores)
    behaviour.check_content_type(request)
    call = Call(behaviour, store, route, behaviour.decode(request.body))
    behaviour.check_metadata(call)
    return behaviour.operations[route.operation](call)


def find_route(target: str) -> ApiPath:
    return parse_path(target)


class MethodRefused(Exception):
    """A method other than POST."""


def check_method(request: Request) -> None:
    if request.method != "POST":
        raise MethodRefused


def check_content_type(request: Request) -> None:
    if (request.header("content-type") or "").partition(";")[0].strip().lower() != "application/json":
        raise ValidationException("Content-Type is not application/json")


def decode(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValidationException("the body is no JSON") from None
    if not isinstance(message, dict):
        raise ValidationException("the body is no JSON object")
    return message


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


REQUIRED_METADATA = {
    Operation.GET_HEALTH_STATUS: ("kmsRequestId", "kmsOperation"),
    Operation.GET_KEY_METADATA: ("awsPrincipalArn", "kmsRequestId", "kmsOperation"),
    Operation.ENCRYPT: ("awsPrincipalArn", "kmsKeyArn", "kmsRequestId", "kmsOperation"),
    Operation.DECRYPT: ("awsPrincipalArn", "kmsKeyArn", "kmsRequestId", "kmsOperation"),
}
OPTIONAL_METADATA = ("awsSourceVpc", "awsSourceVpce", "kmsViaService", "kmsKeyArn")


def check_metadata(call: Call) -> None:
    metadata = call.message.get("requestMetadata")
    if not isinstance(metadata, dict):
        raise ValidationException("requestMetadata is missing")
    for name in REQUIRED_METADATA[call.route.operation]:
        if not isinstance(metadata.get(name), str):
            raise ValidationException(f"requestMetadata.{name} is missing")
    for name in OPTIONAL_METADATA:
        if call.route.operation is not Operation.GET_HEALTH_STATUS and not isinstance(metadata.get(name, ""), str):
            raise ValidationException(f"requestMetadata.{name} is no string")


def find_key(call: Call) -> StubKey:
    key = call.store.key(call.route.key_id)
    if key is None:
        raise KeyNotFoundException("no such key")
    return key


def check_usage(call: Call, key: StubKey, usage: str) -> None:
    if usage not in key.usage:
        raise InvalidKeyUsageException(f"the key cannot {usage}")


def check_state(key: StubKey) -> None:
    if not key.enabled:
        raise InvalidStateException("the key is disabled")


def check_algorithm(call: Call) -> None:
    if call.text("encryptionAlgorithm") != "AES_GCM":
        raise ValidationException("encryptionAlgorithm is not AES_GCM")
    if call.text("ciphertextDataIntegrityValueAlgorithm") not in (None, "SHA_256"):
        raise ValidationException("ciphertextDataIntegrityValueAlgorithm is not SHA_256")


def read_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValidationException(f"{name} is no string")
    return value


def decode_base64(name: str, text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = None
    if data is None or base64.b64encode(data).decode() != text:
        raise ValidationException(f"{name} is no Base64")
    return data


def compose_aad(aad: bytes, ciphertext_metadata: bytes) -> bytes:
    return len(aad).to_bytes(2, "big") + aad + bytes([len(ciphertext_metadata)]) + ciphertext_metadata


def integrity_value(*, aad: bytes, ciphertext_metadata: bytes, iv: bytes, ciphertext: bytes, tag: bytes) -> bytes:
    return hashlib.sha256(aad + ciphertext_metadata + iv + ciphertext + tag).digest()


INSTANCE = {"id": "software", "model": "AESGCM of cryptography"}


def get_health_status(call: Call) -> dict[str, Any]:
    return {
        "xksProxyFleetSize": 1,
        "xksProxyVendor": "stub",
        "xksProxyModel": "stub 1.0",
        "ekmVendor": "stub",
        "ekmFleetDetails": [{**INSTANCE, "healthStatus": "UNAVAILABLE" if call.store.outage.exists() else "ACTIVE"}],
    }


def get_key_metadata(call: Call) -> dict[str, Any]:
    key = call.behaviour.find_key(call)
    status = "ENABLED" if key.enabled else "DISABLED"
    return {"keySpec": "AES_256", "keyUsage": list(key.usage), "keyStatus": status}


def encrypt(call: Call) -> dict[str, Any]:
    behaviour = call.behaviour
    behaviour.check_algorithm(call)
    plaintext, aad = call.required_data("plaintext"), call.data("additionalAuthenticatedData") or b""
    check_sizes(behaviour, plaintext, aad)
    key = usable_key(call, "ENCRYPT")
    wants_value = call.message.get("ciphertextDataIntegrityValueAlgorithm") is not None
    if wants_value:
        behaviour.check_usage(call, key, "DECRYPT")
    iv, metadata = behaviour.make_iv(behaviour.iv_bytes), behaviour.ciphertext_metadata
    sealed = AESGCM(key.value).encrypt(iv, plaintext, behaviour.compose_aad(aad, metadata or b""))
    ciphertext, tag = sealed[:-16], sealed[-16:]
    result = {"ciphertext": encoded(ciphertext), "initializationVector": encoded(iv), "authenticationTag": encoded(tag)}
    if metadata is not None:
        result["ciphertextMetadata"] = encoded(metadata)
    if wants_value:
        value = behaviour.integrity_value(
            aad=aad, ciphertext_metadata=metadata or b"", iv=iv, ciphertext=ciphertext, tag=tag
        )
        result["ciphertextDataIntegrityValue"] = encoded(value)
    return result


def decrypt(call: Call) -> dict[str, Any]:
    behaviour = call.behaviour
    behaviour.check_algorithm(call)
    ciphertext, aad = call.required_data("ciphertext"), call.data("additionalAuthenticatedData") or b""
    iv, tag = call.required_data("initializationVector"), call.required_data("authenticationTag")
    metadata = call.data("ciphertextMetadata") or b""
    check_sizes(behaviour, ciphertext, aad)
    key = usable_key(call, "DECRYPT")
    behaviour.check_lengths(iv, tag, metadata)
    plaintext = behaviour.open_sealed(key.value, iv, ciphertext, tag, behaviour.compose_aad(aad, metadata))
    return {"plaintext": encoded(plaintext)}


def check_lengths(iv: bytes, tag: bytes, metadata: bytes) -> None:
    if len(iv) not in (12, 16) or len(tag) != 16 or len(metadata) > 20:
        raise InvalidCiphertextException("a length is wrong")


def open_sealed(key: bytes, iv: bytes, ciphertext: bytes, tag: bytes, aad: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(iv, ciphertext + tag, aad)
    except InvalidTag:
        raise InvalidCiphertextException("the tag does not fit") from None


def usable_key(call: Call, usage: str) -> StubKey:
    key = call.behaviour.find_key(call)
    call.behaviour.check_state(key)
    call.behaviour.check_usage(call, key, usage)
    return key


def check_sizes(behaviour: "Behaviour", text: bytes, aad: bytes) -> None:
    if len(text) > behaviour.plaintext_limit or len(aad) > behaviour.aad_limit:
        raise UnsupportedOperationException("too large")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


OPERATIONS: dict[Operation, Callable[[Call], dict[str, Any]]] = {
    Operation.GET_HEALTH_STATUS: get_health_status,
    Operation.GET_KEY_METADATA: get_key_metadata,
    Operation.ENCRYPT: encrypt,
    Operation.DECRYPT: decrypt,
}
