"""The operation GetKeyMetadata."""

from xksproxy.deadline import Deadline
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.spec.limits import MAXIMUM_KEY_USAGES
from xksproxy.spec.messages import GetKeyMetadataResponse


async def get_key_metadata(key_id: str, access: KeyAccess, deadline: Deadline) -> GetKeyMetadataResponse:
    """Report specification, usages and status of a key's primary version, read from an HSM (R-META-1 to R-META-5).

    A disabled key is reported as DISABLED, not refused (Q-5).

    Raises:
        XksError: the key is missing or ambiguous, the policies do not allow the request, or the HSM does not answer.
    """
    key = access.resolve(key_id)
    version = access.versions.primary(key)
    with hsm_errors_translated():
        description = await access.engine.describe_key(version.label, deadline)
    return GetKeyMetadataResponse(
        key_spec=description.spec,
        key_usage=list(description.usages[:MAXIMUM_KEY_USAGES]),
        key_status="DISABLED" if access.disabled_reason(key) else "ENABLED",
    )
