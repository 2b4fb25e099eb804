"""The health of an HSM, as GetHealthStatus reports it."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from xksproxy.hsm.instance.instance import Instance

MAXIMUM_AGE_SECONDS: Final = 60.0
"""A check older than this is not reported (R-HLTH-6)."""


class Status(Enum):
    """The three states of the API, the worst first (R-HLTH-1). The values say what they mean here."""

    UNAVAILABLE = "it is out of service, or its last good check is more than a minute old"
    DEGRADED = "it serves, but with fewer sessions, slowly, with differing keys, or after a failed call"
    ACTIVE = "it serves, and its last check succeeded"


@dataclass(frozen=True, slots=True)
class InstanceHealth:
    """One HSM as GetHealthStatus and operators see it."""

    id: str
    vendor: str
    model: str
    status: Status
    reason: str


def health_of(instance: Instance, *, refused_keys: int = 0, missing_keys: int = 0) -> InstanceHealth:
    """The health of an instance, from its last check and the calls since.

    ``refused_keys`` counts the keys that are not those on record, or of which several have one name; ``missing_keys``
    those that the configuration names or that another HSM has.
    """
    info = instance.info
    status, reason = _status(instance, refused_keys, missing_keys)
    return InstanceHealth(
        id=instance.id,
        vendor=info.manufacturer if info else "unknown (not reached yet)",
        model=f"{info.model}, firmware {info.firmware}, serial {info.serial}" if info else "unknown (not reached yet)",
        status=status,
        reason=reason,
    )


def _status(instance: Instance, refused_keys: int, missing_keys: int) -> tuple[Status, str]:
    if not instance.serving:
        return Status.UNAVAILABLE, instance.reason or instance.state.value
    if instance.seconds_since_check() > MAXIMUM_AGE_SECONDS:
        return Status.UNAVAILABLE, "its last good check is more than a minute old"
    reasons = list(instance.degraded)
    if refused_keys or missing_keys:
        reasons.append(f"{refused_keys} keys are refused, and {missing_keys} are missing")
    return (Status.DEGRADED, "; ".join(reasons)) if reasons else (Status.ACTIVE, "")
