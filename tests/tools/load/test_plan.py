from random import Random

import pytest
from xksproxy_tools.load.plan import USUAL_MIX, Plan, PlanError, Weighted, parse_mix, parse_sizes

from xksproxy.spec.uri import Operation


def test_a_mix_is_read_with_its_weights() -> None:
    mix = parse_mix("encrypt=3, health")

    assert mix == Weighted(((Operation.ENCRYPT, 3.0), (Operation.GET_HEALTH_STATUS, 1.0)))
    assert parse_mix(str(USUAL_MIX)) == USUAL_MIX


@pytest.mark.parametrize("text", ["", "encrypted=1", "encrypt=x", "encrypt=-1", "encrypt=0", "encrypt=inf"])
def test_an_invalid_mix_is_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_mix(text)


@pytest.mark.parametrize("text", ["-1", "8193", "12.5", "236=95,x"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(PlanError):
        parse_sizes(text, 8192)


def test_choices_are_dealt_as_often_as_their_weights_say_whatever_the_seed() -> None:
    for seed in range(20):
        dealt = USUAL_MIX.distribute(1001, Random(seed))

        assert len(dealt) == 1001
        assert abs(dealt.count(Operation.ENCRYPT) - 450) <= 1
        assert abs(dealt.count(Operation.GET_HEALTH_STATUS) - 50) <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 0},
        {"rate": 50_001},
        {"duration": 3601},
        {"duration": float("nan")},
        {"warm_up": -1},
        {"connections": 0},
        {"connections": 10_001},
        {"cdiv_percent": 101},
        {"give_up_after": 0.2},
        {"rate": 40_000, "duration": 3000},
    ],
    ids=str,
)
def test_a_plan_outside_the_bounds_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=r"expected|more than"):
        Plan(**change)  # type: ignore[arg-type]
