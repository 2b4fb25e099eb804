"""The shutdown of the service: the load balancer is told first, and notices before connections are refused."""

from contextlib import suppress
from pathlib import Path
from typing import Final

from xksproxy.config.model import Config

_NAME: Final = "stopping"
CLOSE_SECONDS: Final = 1.0
"""How long a worker continues to serve while it asks clients to close, if there is no load balancer."""
_LOAD_BALANCER_SECONDS: Final = 12.0
"""Two health checks of 5 s each, as deploy/aws and deploy/kubernetes set them up, and 2 s in reserve."""


def drain_seconds(config: Config) -> float:
    """The seconds after SIGTERM in which the service continues to serve while ``/readyz`` is 503.

    Without a health listener, no load balancer asks for ``/readyz``.
    """
    if config.server.drain_s is not None:
        return config.server.drain_s
    return _LOAD_BALANCER_SECONDS if config.health.listen else CLOSE_SECONDS


def announce_stop(runtime: Path) -> None:
    """Tell the workers that the whole service stops. Otherwise a worker that gets SIGTERM is only replaced."""
    with suppress(OSError):
        (runtime / _NAME).touch()


def service_stops(runtime: Path) -> bool:
    """Whether the whole service stops."""
    return (runtime / _NAME).exists()
