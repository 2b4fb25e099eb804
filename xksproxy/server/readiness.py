"""Whether a load balancer may send requests to this machine (R-LB-1, R-LB-2)."""

from collections.abc import Callable

from xksproxy.config.model import ALL_STORES, ANY_STORE, Health
from xksproxy.server.services import Services


class Readiness:
    """Readiness of one worker, as a whole and for each key store."""

    def __init__(
        self,
        settings: Health,
        services: Services,
        *,
        refuses: Callable[[], bool],
        elsewhere: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        """``refuses`` says whether the worker refuses all requests, or stops.

        ``elsewhere`` returns the ids of the HSMs that serve in other workers, while this worker leaves connections to
        them.
        """
        self._when = settings.ready_when
        self._services = services
        self._refuses = refuses
        self._elsewhere = elsewhere

    def machine(self) -> bool:
        """Whether the key stores that ``[health] ready_when`` names are ready."""
        ready = self._stores()
        if self._when == ANY_STORE:
            return any(ready.values())
        names = ready if self._when == ALL_STORES else self._when
        return all(ready.get(name, False) for name in names)

    def store(self, name: str) -> bool | None:
        """Whether Encrypt and Decrypt requests of a key store are answered; None if there is no such key store."""
        return self._stores().get(name)

    def _stores(self) -> dict[str, bool]:
        up = not (self._refuses() or self._services.problem)
        elsewhere = self._elsewhere()
        services = self._services.snapshot.services.values()
        return {
            service.store.name: up and (service.ready or any(hsm.id in elsewhere for hsm in service.fleet.instances))
            for service in services
        }
