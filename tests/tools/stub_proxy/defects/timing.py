"""What the checks of `timing` must find."""

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations


def always_active(call: Call) -> dict[str, object]:
    return {**api.get_health_status(call), "ekmFleetDetails": [{**api.INSTANCE, "healthStatus": "ACTIVE"}]}


DEFECTS: tuple[Defect, ...] = (
    Defect("slow", ("time-answers", "time-new-connections"), {"delay_seconds": 0.2}),
    Defect("health-of-yesterday", ("time-health-freshness",), operations(GET_HEALTH_STATUS=always_active)),
)
