"""botocore's model of KMS: the operations, their parameters and their responses."""

import json
from collections.abc import Mapping
from typing import Any, Final, Self

from botocore.exceptions import BotoCoreError
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.protocol.constraints import check
from xksproxy_tools.kms_emulator.protocol.wire import decode, encode

_SERVICE: Final = "kms"


class ModelUnusable(Exception):
    """The data of botocore has no usable model of KMS."""


class KmsModel:
    """The shapes of the KMS API 2014-11-01 in the installed botocore."""

    def __init__(self, service: ServiceModel) -> None:
        self._service = service
        self._operations: Mapping[str, OperationModel] = {
            name: service.operation_model(name) for name in service.operation_names
        }
        self.target_prefix: str = f"{service.metadata['targetPrefix']}."
        """The part of the header X-Amz-Target before the operation's name."""

    @classmethod
    def load(cls) -> Self:
        """Load the model of the installed botocore.

        Raises:
            ModelUnusable: its data is incomplete.
        """
        try:
            return cls(ServiceModel(Loader().load_service_model(_SERVICE, "service-2"), _SERVICE))
        except BotoCoreError as error:
            raise ModelUnusable(str(error)) from error

    @property
    def operations(self) -> frozenset[str]:
        """The names of all operations."""
        return frozenset(self._operations)

    def parse(self, operation: str, body: bytes) -> dict[str, Any]:
        """Parse the parameters of a request: blobs become bytes, unknown members and nulls are ignored.

        botocore's clients do not check patterns, enum values and maximum lengths. Here they are checked.

        Raises:
            KmsError: SerializationException, if the body is not a JSON object or a member has a wrong type;
                ValidationException, with every violated constraint.
        """
        document = _document(body)
        shape = self._operations[operation].input_shape
        parameters: dict[str, Any] = decode(shape, document)
        problems = check(shape, parameters)
        if problems:
            count = f"{len(problems)} validation error{'s'[: len(problems) > 1]} detected"
            raise KmsError("ValidationException", f"{count}: {'; '.join(problems)}")
        return parameters

    def render(self, operation: str, result: Mapping[str, Any] | None) -> bytes:
        """The body of a response: blobs in Base64, without members that are None. Empty if there is no output shape.

        Raises:
            KeyError: the result has a member that the model does not have.
        """
        shape = self._operations[operation].output_shape
        return b"" if shape is None else json.dumps(encode(shape, result or {})).encode()


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KmsError("SerializationException", "the body of the request is not a JSON object")
    return document
