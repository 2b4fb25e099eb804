"""What the checks of `health` must find."""

from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from xksproxy.spec.errors import AccessDeniedException, InternalException
from xksproxy.spec.uri import Operation


def answered(**members: Any) -> dict[str, Any]:
    """GetHealthStatus with other members; those that are None are left out."""

    def get_health_status(call: Call) -> dict[str, Any]:
        found = {**api.get_health_status(call), **members}
        return {name: value for name, value in found.items() if value is not None}

    return operations(GET_HEALTH_STATUS=get_health_status)


def instances(*changes: dict[str, Any]) -> dict[str, Any]:
    return answered(ekmFleetDetails=[{**api.INSTANCE, "healthStatus": "ACTIVE", **change} for change in changes])


def authorized_callers_only(call: Call) -> None:
    api.check_metadata(call)
    if call.route.operation is Operation.GET_HEALTH_STATUS and "awsPrincipalArn" in call.message["requestMetadata"]:
        raise AccessDeniedException("no policy allows it")


def hsm_is_gone(call: Call) -> dict[str, Any]:
    raise InternalException("the HSM does not answer")


DEFECTS: tuple[Defect, ...] = (
    Defect("no-proxy-model", ("health-members",), answered(xksProxyModel=None)),
    Defect("vendor-is-a-number", ("health-members",), answered(ekmVendor=1)),
    Defect("no-fleet-details", ("health-members", "health-instances"), answered(ekmFleetDetails=None)),
    Defect("fleet-of-none", ("health-fleet-size",), answered(xksProxyFleetSize=0)),
    Defect("fleet-size-in-quotes", ("health-fleet-size",), answered(xksProxyFleetSize="1")),
    Defect("fleet-size-is-true", ("health-fleet-size",), answered(xksProxyFleetSize=True)),
    Defect("fleet-of-one-and-a-half", ("health-fleet-size",), answered(xksProxyFleetSize=1.5)),
    Defect("no-instances", ("health-instances",), answered(ekmFleetDetails=[])),
    Defect("eleven-instances", ("health-instances",), instances(*({"id": str(number)} for number in range(11)))),
    Defect("healthy", ("health-instance-members",), instances({"healthStatus": "HEALTHY"})),
    Defect("instance-without-id", ("health-instance-members",), instances({"id": None})),
    Defect("instances-of-one-id", ("health-instance-ids",), instances({}, {})),
    Defect("nameless", ("health-texts",), answered(xksProxyVendor=" ")),
    Defect("nameless-instance", ("health-texts",), instances({"model": ""})),
    Defect("health-is-authorized", ("health-no-authorization",), {"check_metadata": authorized_callers_only}),
    Defect("shallow-health", ("health-deep",), operations(DECRYPT=hsm_is_gone)),
)
