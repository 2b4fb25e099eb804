"""Conditions of a worker that leaves requests to others."""

from types import SimpleNamespace
from typing import cast

import pytest

from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.server.conditions import Cause, Severity
from xksproxy.server.find_conditions import hsm_conditions, why_not_served


def without_session(hsm_id: str) -> Instance:
    made = SimpleNamespace(id=hsm_id, serving=False, reason="no session", state=State.DOWN, degraded=())
    return cast(Instance, made)


@pytest.mark.parametrize(
    ("elsewhere", "severity", "cause"),
    [
        (frozenset({"a"}), Severity.DEGRADED, Cause.HSM_DEGRADED),
        (frozenset({"b"}), Severity.UNAVAILABLE, Cause.HSM_DOWN),
        (frozenset(), Severity.UNAVAILABLE, Cause.HSM_DOWN),
    ],
)
def test_an_hsm_that_serves_in_other_workers_is_not_unavailable(
    elsewhere: frozenset[str], severity: Severity, cause: Cause
) -> None:
    (found,) = hsm_conditions(without_session("a"), elsewhere)
    assert (found.severity, found.cause, found.hsm) == (severity, cause, "a")
    assert "no session" in found.text


@pytest.mark.parametrize(("elsewhere", "served"), [({"a"}, True), ({"b"}, True), ({"c"}, False), (set(), False)])
def test_a_key_store_whose_hsm_serves_in_other_workers_is_served(elsewhere: set[str], served: bool) -> None:
    fleet = SimpleNamespace(instances=(without_session("a"), without_session("b")), fingerprinting_seconds=0.0)
    assert (why_not_served(cast(Fleet, fleet), frozenset(elsewhere)) == "") == served
