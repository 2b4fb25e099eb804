"""Whether a load balancer may send requests to this machine (R-LB-1, R-LB-2)."""

from collections.abc import Callable

from xksproxy.config.model import ALL_STORES, ANY_STORE, Health
from xksproxy.server.services import Services
from xksproxy.server.snapshot import Service


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
        """Whether the key stores are ready that ``[health] ready_when`` asks for."""
        services = self._services.snapshot.services.values()
        if self._when == ANY_STORE:
            return self._is_up() and any(map(self._serves, services))
        if self._when == ALL_STORES:
            return self._is_up() and all(map(self._serves, services))
        return all(map(self.store, self._when))

    def store(self, name: str) -> bool | None:
        """Whether Encrypt and Decrypt requests of a key store are answered; None if there is no such key store."""
        snapshot = self._services.snapshot
        prefix = snapshot.prefixes.get(name)
        return None if prefix is None else self._is_up() and self._serves(snapshot.services[prefix])

    def _is_up(self) -> bool:
        return not (self._refuses() or self._services.state.problem)

    def _serves(self, service: Service) -> bool:
        return service.ready or any(hsm.id in self._elsewhere() for hsm in service.fleet.instances)
