import re
from xml.etree import ElementTree as ET

import pytest
from xksproxy_tools.report.charts import Line, bar_chart, line_chart, linear, logarithmic, nines

_SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("lowest", "highest"), [(0, 1), (0, 0), (0, 60), (0, 1801), (3, 3), (0.2, 0.9), (0, 5e6), (-5, 5)]
)
def test_a_linear_axis_encloses_its_values_with_few_round_ticks(lowest: float, highest: float) -> None:
    axis = linear("s", lowest, highest)

    assert axis.ticks[0][0] <= lowest
    assert axis.ticks[-1][0] >= highest
    assert 2 <= len(axis.ticks) <= 8
    assert 0 <= axis.share(lowest) <= axis.share(highest) <= 1


@pytest.mark.parametrize(("lowest", "highest"), [(0.4, 0.4), (0.05, 2000), (1, 1.5), (0.3, 31)])
def test_a_logarithmic_axis_encloses_its_values(lowest: float, highest: float) -> None:
    axis = logarithmic("ms", lowest, highest)

    first, last = axis.ticks[0][0], axis.ticks[-1][0]
    assert first <= lowest <= highest <= last
    assert (axis.share(first), axis.share(last)) == (0, 1)


def test_each_further_nine_has_the_same_room() -> None:
    axis = nines("%")

    assert axis.share(0.99) == pytest.approx(2 * axis.share(0.9))
    assert axis.share(0.9999) == pytest.approx(4 * axis.share(0.9))


def test_a_chart_is_an_svg_by_itself_with_its_lines_inside() -> None:
    points = [(0.0, 1.0), (5.0, 50.0), (10.0, 1000.0)]
    svg = line_chart(
        "Latency <of> all",
        linear("s", 0, 10),
        logarithmic("ms", 1, 1000),
        [Line("p50 & more", points)],
        mark=(250, "late"),
    )

    root = ET.fromstring(svg)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    line = root.find(f"{_SVG}polyline")

    assert root.find(f"{_SVG}title").text == "Latency <of> all"  # type: ignore[union-attr]
    assert line is not None
    drawn = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert [x for x, _ in drawn] == sorted(x for x, _ in drawn)
    assert [y for _, y in drawn] == sorted((y for _, y in drawn), reverse=True)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in drawn)
    assert {"p50 & more", "late"} <= {text.text for text in root.iter(f"{_SVG}text")}


def test_a_mark_beyond_the_axis_is_left_out() -> None:
    svg = line_chart("t", linear("s", 0, 1), logarithmic("ms", 1, 10), [], mark=(250, "late"))

    assert not re.search(r">late<", svg)


def test_bars_are_as_long_as_their_values() -> None:
    root = ET.fromstring(bar_chart("Encrypts", [("this & that", 200.0), ("other", 50.0), ("none", 0.0)]))

    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{_SVG}rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
    assert widths[2] == 0
    assert {"this & that", "200", "50"} <= {text.text for text in root.iter(f"{_SVG}text")}
