"""The input of a decision, and its form for Cedar: principal, action, resource and context."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import msgspec

from xksproxy.sigv4.verify import Identity
from xksproxy.spec.messages import CryptoRequestMetadata, KeyRequestMetadata
from xksproxy.spec.uri import Operation

PRINCIPAL_TYPE: Final = "Xks::Principal"
RESOURCE_TYPE: Final = "Xks::ExternalKey"
AWS_INTERNAL: Final = "AWS Internal"

ACTIONS: Final[Mapping[Operation, str]] = {
    Operation.ENCRYPT: "Encrypt",
    Operation.DECRYPT: "Decrypt",
    Operation.GET_KEY_METADATA: "GetKeyMetadata",
}
"""Cedar actions by operation. GetHealthStatus has none, because it is exempt (R-AUTHZ-3)."""

_PRINCIPAL_ARN: Final = re.compile(r"arn:[a-z0-9-]+:(?P<kind>iam|sts)::(?P<account>[0-9]{12}):.+")
_SERVICE: Final = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_KEY_ARN: Final = re.compile(r"arn:[a-z0-9-]+:kms:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):.+")


class AuthorizationRequest(NamedTuple):
    """The parts of an authenticated request that policies can read. The caller chooses its metadata (R-REQ-6)."""

    operation: Operation
    key_id: str
    region: str
    access_key_id: str
    aws_principal_arn: str
    kms_operation: str
    kms_request_id: str
    kms_key_arn: str | None = None
    kms_via_service: str | None = None
    aws_source_vpc: str | None = None
    aws_source_vpce: str | None = None
    vpc_endpoint_id: str | None = None
    """From the load balancer, not from the caller."""

    @classmethod
    def of(
        cls,
        operation: Operation,
        key_id: str,
        identity: Identity,
        metadata: KeyRequestMetadata | CryptoRequestMetadata,
        vpc_endpoint_id: str | None = None,
    ) -> Self:
        """Make it from the path, the signature, the ``requestMetadata`` and the VPC endpoint of a request."""
        return cls(
            operation=operation,
            key_id=key_id,
            region=identity.region,
            access_key_id=identity.access_key_id,
            aws_principal_arn=metadata.aws_principal_arn,
            kms_operation=metadata.kms_operation,
            kms_request_id=metadata.kms_request_id,
            kms_key_arn=metadata.kms_key_arn,
            kms_via_service=metadata.kms_via_service,
            aws_source_vpc=metadata.aws_source_vpc,
            aws_source_vpce=metadata.aws_source_vpce,
            vpc_endpoint_id=vpc_endpoint_id,
        )

    @property
    def characters(self) -> int:
        """The number of characters in all its values."""
        return sum(len(value) for value in self if isinstance(value, str))


def principal_attributes(arn: str) -> dict[str, str]:
    """Return the attributes of a principal. If its form is unknown, the kind is "unknown" and there is no account."""
    if match := _PRINCIPAL_ARN.fullmatch(arn):
        return {"arn": arn, "kind": match["kind"], "account": match["account"]}
    is_service = arn == AWS_INTERNAL or _SERVICE.fullmatch(arn) is not None
    return {"arn": arn, "kind": "service" if is_service else "unknown"}


def key_arn_attributes(arn: str | None) -> dict[str, str]:
    """Return account and Region of a KMS key ARN, or nothing if it has another form.

    The malformed ARNs in AWS's examples are read too.
    """
    match = _KEY_ARN.fullmatch(arn) if arn is not None else None
    return {"kmsKeyAccount": match["account"], "kmsKeyRegion": match["region"]} if match else {}


def context_of(request: AuthorizationRequest) -> dict[str, str]:
    """Return the context: the members of ``requestMetadata`` by their API names, and values derived from them."""
    members = {
        "awsPrincipalArn": request.aws_principal_arn,
        "kmsKeyArn": request.kms_key_arn,
        "kmsOperation": request.kms_operation,
        "kmsRequestId": request.kms_request_id,
        "kmsViaService": request.kms_via_service,
        "awsSourceVpc": request.aws_source_vpc,
        "awsSourceVpce": request.aws_source_vpce,
        "region": request.region,
        "accessKeyId": request.access_key_id,
        "vpcEndpointId": request.vpc_endpoint_id,
    }
    present = {name: value for name, value in members.items() if value is not None}
    return present | key_arn_attributes(request.kms_key_arn)


def cedar_request(request: AuthorizationRequest) -> dict[str, Any]:
    """Return the request for cedarpy. Ids are passed as data, not as Cedar source, so a caller cannot inject source."""
    return {
        "principal": {"type": PRINCIPAL_TYPE, "id": request.aws_principal_arn},
        "action": {"type": "Xks::Action", "id": ACTIONS[request.operation]},
        "resource": {"type": RESOURCE_TYPE, "id": request.key_id},
        "context": msgspec.json.encode(context_of(request)).decode(),
    }


def cedar_entities(request: AuthorizationRequest, key_store: str) -> str:
    """Return the principal and the external key with their attributes, as JSON."""
    entities = (
        (PRINCIPAL_TYPE, request.aws_principal_arn, principal_attributes(request.aws_principal_arn)),
        (RESOURCE_TYPE, request.key_id, {"keyStore": key_store}),
    )
    return msgspec.json.encode(
        [{"uid": {"type": kind, "id": name}, "attrs": attributes, "parents": []} for kind, name, attributes in entities]
    ).decode()
