"""GetHealthStatus."""

from typing import Final

from xksproxy import __version__
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import HsmBusy, HsmError
from xksproxy.operations.engine import Engine
from xksproxy.spec.messages import EkmInstance, GetHealthStatusResponse

_VENDOR: Final = "xksproxy"
_UNKNOWN: Final = "unknown (not reached yet)"


async def get_health_status(engine: Engine, fleet_size: int, deadline: Deadline) -> GetHealthStatusResponse:
    """Try the HSM now and report (R-HLTH-*): a self-test under a key of the proxy's own, never a customer's.

    An HSM that fails is reported as UNAVAILABLE in a 200, which KMS understands (Q-14); one whose sessions are all
    busy still serves, and is DEGRADED.
    """
    try:
        await engine.self_test(deadline)
        status = "ACTIVE"
    except HsmBusy:
        status = "DEGRADED"
    except HsmError:
        status = "UNAVAILABLE"
    info = engine.info
    return GetHealthStatusResponse(
        xks_proxy_fleet_size=fleet_size,
        xks_proxy_vendor=_VENDOR,
        xks_proxy_model=f"xksproxy {__version__}",
        ekm_vendor=info.manufacturer if info else _UNKNOWN,
        ekm_fleet_details=[
            EkmInstance(
                id=engine.id,
                model=f"{info.model}, firmware {info.firmware}" if info else _UNKNOWN,
                health_status=status,
            ),
        ],
    )
