"""The response of GetHealthStatus for states of the HSMs."""

import pytest

from xksproxy.hsm.instance.health import InstanceHealth, Status
from xksproxy.operations.health import get_health_status


class States:
    """An engine with health only."""

    def __init__(self, *states: Status) -> None:
        self._states = states

    def health(self) -> list[InstanceHealth]:
        return [
            InstanceHealth(f"hsm-{number}", "vendor", "model", state, "") for number, state in enumerate(self._states)
        ]


def test_the_worst_hsms_come_first() -> None:
    response = get_health_status(States(Status.ACTIVE, Status.UNAVAILABLE, Status.DEGRADED), 3, "")

    assert [item.health_status for item in response.ekm_fleet_details] == ["UNAVAILABLE", "DEGRADED", "ACTIVE"]
    assert response.xks_proxy_fleet_size == 3


def test_at_most_ten_hsms_are_reported_the_worst_included() -> None:
    """R-HLTH-1."""
    response = get_health_status(States(*[Status.ACTIVE] * 11, Status.UNAVAILABLE), 1, "")

    assert len(response.ekm_fleet_details) == 10
    assert response.ekm_fleet_details[0].health_status == "UNAVAILABLE"


@pytest.mark.parametrize("count", [1, 4])
def test_all_hsms_out_of_service_is_reported_and_not_an_error(count: int) -> None:
    """Q-14."""
    response = get_health_status(States(*[Status.UNAVAILABLE] * count), 1, "")

    assert {item.health_status for item in response.ekm_fleet_details} == {"UNAVAILABLE"}


def test_no_hsm_is_active_while_the_proxy_refuses_encrypt_requests() -> None:
    """The API is to give strong assurance for the next Encrypt."""
    response = get_health_status(States(Status.ACTIVE, Status.DEGRADED), 1, "the disk is full")

    assert {item.health_status for item in response.ekm_fleet_details} == {"UNAVAILABLE"}
