"""The ``requestMetadata`` that KMS sends to a proxy with each API."""

from xksproxy.spec.messages import CryptoRequestMetadata, HealthRequestMetadata, KeyRequestMetadata
from xksproxy_tools.kms_emulator.request import KmsRequest


def of_health(request_id: str, operation: str) -> HealthRequestMetadata:
    """For GetHealthStatus, which has no principal."""
    return HealthRequestMetadata(kms_request_id=request_id, kms_operation=operation)


def of_new_key(request: KmsRequest) -> KeyRequestMetadata:
    """For GetKeyMetadata, which CreateKey calls: there is no KMS key yet, and no AWS service in between."""
    caller = request.caller
    return KeyRequestMetadata(
        aws_principal_arn=caller.principal_arn,
        kms_operation=request.operation,
        kms_request_id=request.id,
        aws_source_vpc=caller.source_vpc,
        aws_source_vpce=caller.source_vpce,
    )


def of_cryptography(request: KmsRequest, key_arn: str) -> CryptoRequestMetadata:
    """For Encrypt and Decrypt."""
    caller = request.caller
    return CryptoRequestMetadata(
        aws_principal_arn=caller.principal_arn,
        kms_key_arn=key_arn,
        kms_operation=request.operation,
        kms_request_id=request.id,
        kms_via_service=caller.via_service,
        aws_source_vpc=caller.source_vpc,
        aws_source_vpce=caller.source_vpce,
    )
