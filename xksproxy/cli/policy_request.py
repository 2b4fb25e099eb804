"""The request for ``xksproxy policy explain``: from options, from a log line, or from a request body of KMS."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
import msgspec

from xksproxy.authorization.request import ACTIONS, AuthorizationRequest, key_arn_attributes
from xksproxy.cli.pasted import ID, KEY_ID, KMS_KEY_ARN, PRINCIPAL, REGION
from xksproxy.spec.messages import CryptoRequestMetadata
from xksproxy.spec.pasted import unwrapped
from xksproxy.spec.uri import Operation

_ASSUMED: Final = "assumed"
_KMS_OPERATIONS: Final = {
    Operation.ENCRYPT: "Encrypt",
    Operation.DECRYPT: "Decrypt",
    Operation.GET_KEY_METADATA: "CreateKey",
}
_CONSOLE_NAME: Final = re.compile(r"(?<!\S)([a-z_]+)=")
_FIELDS: Final = ("keystore", "operation", *AuthorizationRequest._fields[1:])


def request_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each part of a request."""
    options = (
        click.option("--operation", help="Encrypt, Decrypt or GetKeyMetadata."),
        click.option("--key", "key_id", type=KEY_ID, help="External key id."),
        click.option(
            "--principal", "aws_principal_arn", type=PRINCIPAL, help="awsPrincipalArn: an ARN or a service principal."
        ),
        click.option("--kms-operation", help="kmsOperation.  [default: the usual one of the operation]"),
        click.option("--kms-key-arn", type=KMS_KEY_ARN, help="kmsKeyArn. Encrypt and Decrypt always have it."),
        click.option("--via-service", "kms_via_service", help="kmsViaService, such as ebs."),
        click.option("--vpc", "aws_source_vpc", help="awsSourceVpc."),
        click.option("--vpce", "aws_source_vpce", help="awsSourceVpce."),
        click.option("--vpc-endpoint-id", help="vpcEndpointId: the VPC endpoint that the load balancer names."),
        click.option("--region", type=REGION, help="The Region of the signature.  [default: that of the KMS key]"),
        click.option("--access-key-id", type=ID, help="The access key id of the signature."),
        click.option("--request-id", "kms_request_id", help="kmsRequestId."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_fields(content: bytes) -> dict[str, str]:
    """Read the fields of a request from a log line or a request body, by the names that the log uses.

    Raises:
        click.UsageError: the content is neither.
    """
    try:
        text = content.decode("utf-8").strip()
        document = json.loads(text) if text.startswith("{") else _console_fields(text)
        if "requestMetadata" in document:
            document = {"operation": _operation_of_body(document)} | _policy_members(document["requestMetadata"])
        document |= _policy_members(document.get("request_metadata", {}))
    except (ValueError, TypeError, RecursionError):
        raise click.UsageError("--from: expected one line of the proxy's log, or the JSON body of a request") from None
    fields = {name: document[name] for name in _FIELDS if document.get(name) is not None}
    if not fields or not all(isinstance(value, str) for value in fields.values()):
        raise click.UsageError("--from: expected one line of the proxy's log, or the JSON body of a request")
    return fields


def _console_fields(text: str) -> dict[str, Any]:
    """The fields of a log line of the format ``console``: ``name=`` and the value in JSON."""
    if "\n" in text:
        raise ValueError(text)
    decode, fields, position = json.JSONDecoder().raw_decode, {}, 0
    while match := _CONSOLE_NAME.search(text, position):
        fields[match[1]], position = decode(text, match.end())
    return fields


def _operation_of_body(body: Mapping[str, Any]) -> str:
    """The operation of a request body. The body has no such field, but each operation has its own members."""
    return "encrypt" if "plaintext" in body else "decrypt" if "ciphertext" in body else "metadata"


def _policy_members(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The members of ``requestMetadata`` that policies can read, with the field names of :class:`AuthorizationRequest`.

    Unknown members are left out. Their names are free, so they could replace what the signature or the connection says.
    """
    names = {field.encode_name: field.name for field in msgspec.structs.fields(CryptoRequestMetadata)}
    return {names[name]: value for name, value in dict(metadata).items() if name in names}


def compose_request(fields: Mapping[str, str]) -> AuthorizationRequest:
    """Make a request from its fields. Optional fields that are missing get the usual values of KMS.

    Raises:
        click.UsageError: a required field is missing, or the operation is not known.
    """
    operation = _operation(fields.get("operation", ""))
    for name, option in (("key_id", "--key"), ("aws_principal_arn", "--principal")):
        if name not in fields:
            raise click.UsageError(f"the request has no {name}: give {option}, or a log line with --from")
    key_arn = fields.get("kms_key_arn")
    if key_arn is None and operation is not Operation.GET_KEY_METADATA:
        raise click.UsageError(f"{ACTIONS[operation]} always has a KMS key: give --kms-key-arn")
    complete = {
        "kms_operation": _KMS_OPERATIONS[operation],
        "kms_request_id": _ASSUMED,
        "access_key_id": _ASSUMED,
        "region": key_arn_attributes(key_arn).get("kmsKeyRegion", _ASSUMED),
        **{name: value for name, value in fields.items() if name in AuthorizationRequest._fields},
        "operation": operation,
    }
    return AuthorizationRequest(**complete)  # type: ignore[arg-type]  # the names are its fields


def _operation(name: str) -> Operation:
    name = unwrapped(name).removeprefix("kms:")
    for operation, action in ACTIONS.items():
        if name.lower() in (operation.value, action.lower()):
            return operation
    if name.lower() in (Operation.GET_HEALTH_STATUS.value, "gethealthstatus"):
        raise click.UsageError("GetHealthStatus is exempt from policies; there is nothing to explain")
    raise click.UsageError(f"give the --operation: one of {', '.join(ACTIONS.values())}")
