"""Which key stores must be ready for the machine to be ready."""

from types import SimpleNamespace
from typing import cast

import pytest

from xksproxy.config.model import Health
from xksproxy.server.readiness import Readiness
from xksproxy.server.services import Services


def readiness(
    when: str | tuple[str, ...],
    *,
    problem: str = "",
    refuses: bool = False,
    elsewhere: frozenset[str] = frozenset(),
    **stores: bool,
) -> Readiness:
    """With key stores that are ready or not. Each has an HSM of its own, ``hsm-NAME``."""
    found = {
        name: SimpleNamespace(
            store=SimpleNamespace(name=name),
            ready=is_ready,
            fleet=SimpleNamespace(instances=(SimpleNamespace(id=f"hsm-{name}"),)),
        )
        for name, is_ready in stores.items()
    }
    services = SimpleNamespace(
        state=SimpleNamespace(problem=problem),
        snapshot=SimpleNamespace(services=found, prefixes={name: name for name in found}),
    )
    return Readiness(
        Health(ready_when=when), cast(Services, services), refuses=lambda: refuses, elsewhere=lambda: elsewhere
    )


@pytest.mark.parametrize(
    ("when", "stores", "expected"),
    [
        ("any", {"a": True, "b": False}, True),
        ("any", {"a": False, "b": False}, False),
        ("all", {"a": True, "b": False}, False),
        ("all", {"a": True, "b": True}, True),
        (("a",), {"a": True, "b": False}, True),
        (("a", "b"), {"a": True, "b": False}, False),
        (("gone",), {"a": True}, False),
    ],
)
def test_the_machine_is_ready_when_the_key_stores_are_that_were_asked_for(
    when: str | tuple[str, ...], stores: dict[str, bool], expected: bool
) -> None:
    assert readiness(when, **stores).machine() is expected


@pytest.mark.parametrize("reason", [{"problem": "the disk is full"}, {"refuses": True}])
def test_nothing_is_ready_while_all_requests_are_refused(reason: dict[str, object]) -> None:
    found = readiness("any", a=True, **reason)  # type: ignore[arg-type]

    assert (found.machine(), found.store("a"), found.store("b")) == (False, False, None)


def test_what_other_workers_serve_is_ready_and_no_more() -> None:
    """A worker without a session leaves requests to others; the HSM of a key store may be out of service there too."""
    found = readiness("all", a=False, b=False, elsewhere=frozenset({"hsm-a"}))

    assert (found.machine(), found.store("a"), found.store("b")) == (False, True, False)
