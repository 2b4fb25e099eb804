"""The operation GetHealthStatus."""

from typing import Final

from xksproxy import __version__
from xksproxy.hsm.instance.health import Status
from xksproxy.operations.engine import Engine
from xksproxy.spec.limits import MAXIMUM_FLEET_DETAILS
from xksproxy.spec.messages import EkmInstance, GetHealthStatusResponse

_VENDOR: Final = "xksproxy"
_WORST_FIRST: Final = tuple(Status)


def get_health_status(engine: Engine, fleet_size: int, problem: str) -> GetHealthStatusResponse:
    """Report the state of each HSM, the worst first, from background checks of the last minute (R-HLTH-*).

    The checks encrypt and decrypt with session keys that the proxy generates, never with a customer's key. If all HSMs
    are out of service, the response is a 200 that reports each as UNAVAILABLE (Q-14); also if there is a ``problem``,
    the reason why the proxy refuses Encrypt requests although HSMs serve.
    """
    instances = sorted(engine.health(), key=lambda instance: _WORST_FIRST.index(instance.status))
    return GetHealthStatusResponse(
        xks_proxy_fleet_size=fleet_size,
        xks_proxy_vendor=_VENDOR,
        xks_proxy_model=f"xksproxy {__version__}",
        ekm_vendor=instances[-1].vendor,
        ekm_fleet_details=[
            EkmInstance(
                id=instance.id,
                model=instance.model,
                health_status=Status.UNAVAILABLE.name if problem else instance.status.name,
            )
            for instance in instances[:MAXIMUM_FLEET_DETAILS]
        ],
    )
