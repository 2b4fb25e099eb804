"""What is measured as a kind of thing grows."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks import growth
from benchmarks.growth import Cost
from benchmarks.scenarios.growth import goals_of
from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.blocks import block_table

_ONE = Cost(1, ready=1.0, memory=60.0, idle=0.02, request_us=1000.0, p50=2.0, p99=5.0, stop=1.5, failed=0)


def test_what_grows_no_more_than_stated_reaches_every_goal() -> None:
    many = replace(_ONE, size=1000, ready=6.0, memory=120.0, idle=0.03, request_us=1300.0, stop=3.5)
    assert [
        goal.text for goal in goals_of("keys", [_ONE, replace(_ONE, size=10, stop=99.0), many]) if not goal.reached
    ] == []


@pytest.mark.parametrize(
    ("more", "missed"),
    [
        ({"idle": 0.031}, "idle"),
        ({"request_us": 1301.0}, "an Encrypt costs"),
        ({"ready": 6.1}, "ready"),
        ({"memory": 121.0}, "at most 60 MiB"),
        ({"stop": 3.6}, "stopped"),
        ({"failed": 1}, "none failed"),
    ],
)
def test_what_grows_more_misses_its_goal(more: dict[str, float], missed: str) -> None:
    many = replace(_ONE, size=1000, **more)
    (goal,) = [goal for goal in goals_of("keys", [_ONE, many]) if not goal.reached]
    assert goal.text.startswith(f"1,000 keys: {missed}")


def test_as_many_as_named_are_added(tmp_path: Path) -> None:
    kinds = {kind.name: kind for kind in growth.KINDS}
    (tmp_path / "credentials" / "0").mkdir(parents=True, mode=0o700)
    save_credential(tmp_path / "credentials" / "0", generate_credential())

    for name in ("credentials", "blocks", "policies"):
        kinds[name].add(tmp_path, number=5)

    assert len(load_credentials(tmp_path / "credentials" / "0")) == 5
    blocks = block_table(tmp_path / "state", "store-0")
    blocks.refresh()
    assert len(blocks.entries()) == 4
    assert (tmp_path / "policies" / "all.cedar").read_text().count("permit") == 5
