"""Conditions of a worker, and what they say."""

from types import SimpleNamespace
from typing import cast

import pytest

from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.keystore.store import KeyStore
from xksproxy.server.conditions import Cause, Severity
from xksproxy.server.find_conditions import hsm_conditions, limit_conditions, why_not_served


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


def test_a_key_at_its_maximum_is_told_from_one_that_nears_it() -> None:
    keys = {label: SimpleNamespace(id=label, maximum_encryptions=100) for label in ("low", "near", "full")}
    store = cast(KeyStore, SimpleNamespace(name="s", key_of_primary=keys.get))

    full, near = limit_conditions(store, {"low": 79, "near": 99, "full": 100, "another": 100})

    assert full.text.startswith("keys have reached their maximum number of encryptions")
    assert near.text.startswith("keys have made 80 %")
    assert (full.text.rpartition(": ")[2], near.text.rpartition(": ")[2]) == ("full", "near")
    assert {condition.cause for condition in (full, near)} == {Cause.KEY_LIMIT}
