from html.parser import HTMLParser

import pytest
from markupsafe import Markup
from xksproxy_tools.report.page import Page, Section, paragraph, render, table


class _Links(HTMLParser):
    """Whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]
        if tag in ("script", "iframe", "object", "embed", "link"):
            self.found.append(tag)


def _page(**changes: object) -> Page:
    return Page(**{"title": "Load", "result": "fine", "good": True, "subject": "https://proxy", **changes})  # type: ignore[arg-type]


def test_a_report_loads_nothing() -> None:
    links = _Links()
    links.feed(render(_page(sections=[Section("One", paragraph("text"))])))

    assert links.found == []


def test_what_is_no_markup_is_escaped() -> None:
    text = render(
        _page(
            title="<b>t</b>",
            subject="<i>",
            properties=[("<name>", "<value>")],
            sections=[Section("<u>", table(("<c>",), [("<script>",), (Markup("<em>kept</em>"),)]))],
        )
    )

    for tag in ("<b>", "<i>", "<name>", "<value>", "<u>", "<c>", "<script>"):
        assert tag not in text
    assert "&lt;script&gt;" in text
    assert "<em>kept</em>" in text


@pytest.mark.parametrize(("good", "kind"), [(True, "good"), (False, "bad")])
def test_the_verdict_is_shown_for_what_it_is(good: bool, kind: str) -> None:
    assert f'<span class="badge {kind}">fine</span>' in render(_page(good=good))


def test_numbers_stand_right_from_the_column_on_that_says_so() -> None:
    rows = table(("name", "kind", "count"), [("a", "b", 3)], numbers_from=2)

    assert '<td class="">b' in rows
    assert '<td class="n">3' in rows
