"""The request of ``xksproxy policy explain``: from options, from a log line, or from a body that KMS sent."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
import msgspec

from xksproxy.authorization.request import ACTIONS, AuthorizationRequest, key_arn_attributes
from xksproxy.spec.messages import CryptoRequestMetadata
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
        click.option("--key", "key_id", help="External key id."),
        click.option("--principal", "aws_principal_arn", help="awsPrincipalArn: an ARN or a service principal."),
        click.option("--kms-operation", help="kmsOperation.  [default: the usual one of the operation]"),
        click.option("--kms-key-arn", help="kmsKeyArn; Encrypt and Decrypt always have it."),
        click.option("--via-service", "kms_via_service", help="kmsViaService, such as ebs."),
        click.option("--vpc", "aws_source_vpc", help="awsSourceVpc."),
        click.option("--vpce", "aws_source_vpce", help="awsSourceVpce."),
        click.option("--vpc-endpoint-id", help="The VPC endpoint that the load balancer names, of its connection."),
        click.option("--region", help="The Region of the signature.  [default: that of the KMS key]"),
        click.option("--access-key-id", help="The access key id of the signature."),
        click.option("--request-id", "kms_request_id", help="kmsRequestId."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def read_facts(content: bytes) -> dict[str, str]:
    """What a log line or a request body says, by the names that the log uses.

    Raises:
        click.UsageError: it is neither.
    """
    try:
        text = content.decode("utf-8").strip()
        found = json.loads(text) if text.startswith("{") else _console_fields(text)
        if "requestMetadata" in found:
            found = _of_body(found) | _members(found["requestMetadata"])
        found |= _members(found.get("request_metadata", {}))
    except (ValueError, TypeError, RecursionError):
        raise click.UsageError("--from: expected one line of the proxy's log, or the JSON body of a request") from None
    facts = {name: found[name] for name in _FIELDS if found.get(name) is not None}
    if not facts or not all(isinstance(value, str) for value in facts.values()):
        raise click.UsageError("--from: expected one line of the proxy's log, or the JSON body of a request")
    return facts


def _console_fields(text: str) -> dict[str, Any]:
    """The fields of a line for people, ``name=`` and the value in JSON."""
    if "\n" in text:
        raise ValueError(text)
    decode, found, at = json.JSONDecoder().raw_decode, {}, 0
    while match := _CONSOLE_NAME.search(text, at):
        found[match[1]], at = decode(text, match.end())
    return found


def _of_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body does not name its operation; its fields tell it."""
    return {"operation": "encrypt" if "plaintext" in body else "decrypt" if "ciphertext" in body else "metadata"}


def _members(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The members of ``requestMetadata`` that policies see, by the names of an authorization request.

    Unknown ones may have any name, and say nothing of the signature or the connection.
    """
    names = {field.encode_name: field.name for field in msgspec.structs.fields(CryptoRequestMetadata)}
    return {names[name]: value for name, value in dict(metadata).items() if name in names}


def compose_request(facts: Mapping[str, str]) -> AuthorizationRequest:
    """A whole request; what may be missing is filled in as KMS usually sends it.

    Raises:
        click.UsageError: something is missing that nobody can guess, or the operation is none.
    """
    operation = _operation(facts.get("operation", ""))
    for name, option in (("key_id", "--key"), ("aws_principal_arn", "--principal")):
        if name not in facts:
            raise click.UsageError(f"name what the request asks for with {option}, or take it --from a log line")
    key_arn = facts.get("kms_key_arn")
    if key_arn is None and operation is not Operation.GET_KEY_METADATA:
        raise click.UsageError(f"{ACTIONS[operation]} always has a KMS key: give --kms-key-arn")
    filled = {
        "kms_operation": _KMS_OPERATIONS[operation],
        "kms_request_id": _ASSUMED,
        "access_key_id": _ASSUMED,
        "region": key_arn_attributes(key_arn).get("kmsKeyRegion", _ASSUMED),
        **{name: value for name, value in facts.items() if name in AuthorizationRequest._fields},
        "operation": operation,
    }
    return AuthorizationRequest(**filled)  # type: ignore[arg-type]  # the names are its fields


def _operation(name: str) -> Operation:
    for operation, action in ACTIONS.items():
        if name.lower() in (operation.value, action.lower()):
            return operation
    if name.lower() in (Operation.GET_HEALTH_STATUS.value, "gethealthstatus"):
        raise click.UsageError("GetHealthStatus is exempt from policies")
    raise click.UsageError(f"give the --operation: one of {', '.join(ACTIONS.values())}")
