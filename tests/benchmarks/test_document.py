import re
from pathlib import Path

import pytest

from benchmarks import document
from benchmarks.results import Chart, Finding, Goal, Results, Series, Table
from benchmarks.scenarios import SCENARIOS
from benchmarks.workbench import Scenario

_SCENARIO = Scenario("speed", "Speed", "It ran.", lambda _: _FINDING)
_FINDING = Finding(
    [Table(("", "requests/s"), [("proxy", "1,000")])],
    [Goal("fast", "it is", reached=True), Goal("faster", "it is not", reached=False)],
    [
        Chart("speed-bars", "Speed", bars=[("proxy", 1000.0)]),
        Chart(
            "speed-line", "Speed", "s", "ms", y_scale="logarithmic", series=[Series("p99", [(0.0, 1.0), (1.0, 9.0)])]
        ),
        Chart("speed-nines", "Speed", "%", "ms", x_scale="nines", series=[Series("all", [(0.0, 1.0), (0.99, 9.0)])]),
    ],
    notes=["It was quiet."],
)
_MARKS = "# Performance\n\n<!-- begin machine -->\n<!-- end machine -->\n{}Prose.\n"
_PLACE = "<!-- begin speed -->\nold\n<!-- end speed -->\n"


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "performance.md").write_text(_MARKS.format(_PLACE))
    return tmp_path


def test_the_page_has_a_place_for_the_machine_and_every_scenario() -> None:
    page = (document.DOCS / "performance.md").read_text()

    for name in ("machine", *(scenario.name for scenario in SCENARIOS)):
        assert re.search(f"<!-- begin {name} -->\n.*?<!-- end {name} -->", page, re.DOTALL), name


def test_results_take_their_place_and_prose_stays(docs: Path) -> None:
    document.publish(Results({"processor": "fast"}, {"speed": _FINDING}), [_SCENARIO], docs)

    page = (docs / "performance.md").read_text()
    assert "old" not in page
    assert "| proxy | 1,000 |" in page
    assert "| faster | it is not | **no** |" in page
    assert "- processor: fast" in page
    assert page.startswith("# Performance")
    assert page.endswith("Prose.\n")
    for chart in re.findall(r"\]\((performance/[^)]+\.svg)\)", page):
        assert (docs / chart).read_text().startswith("<svg")


def test_what_did_not_run_again_keeps_its_results(docs: Path) -> None:
    document.publish(Results({}, {"speed": _FINDING}), [_SCENARIO], docs)

    document.publish(Results({"processor": "other"}, {}), [_SCENARIO], docs)

    assert document.load(docs / "performance" / "results.json").findings["speed"] == _FINDING
    assert "| proxy | 1,000 |" in (docs / "performance.md").read_text()


def test_a_page_without_a_place_is_refused_before_anything_is_written(docs: Path) -> None:
    (docs / "performance.md").write_text(_MARKS.format(""))

    with pytest.raises(ValueError, match="begin speed"):
        document.publish(Results({}, {"speed": _FINDING}), [_SCENARIO], docs)

    assert not (docs / "performance").exists()
