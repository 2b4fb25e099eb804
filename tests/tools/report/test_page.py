import re

import pytest
from markupsafe import Markup
from xksproxy_tools.report.page import Page, Section, paragraph, render, table


def _page(**changes: object) -> Page:
    return Page(**{"title": "Load", "result": "fine", "good": True, "subject": "https://proxy", **changes})  # type: ignore[arg-type]


def test_a_report_loads_nothing_else() -> None:
    text = render(_page(sections=[Section("One", paragraph("text"))]))

    assert re.findall(r"<(?:script|iframe|object|embed|link|img)\b|\s(?:src|href|srcset|data)=", text) == []


def test_text_is_escaped() -> None:
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
def test_a_good_and_a_bad_result_have_different_styles(good: bool, kind: str) -> None:
    assert f'<span class="badge {kind}">fine</span>' in render(_page(good=good))


def test_numbers_are_aligned_right_from_a_given_column() -> None:
    rows = table(("name", "kind", "count"), [("a", "b", 3)], numbers_from=2)

    assert '<td class="">b' in rows
    assert '<td class="n">3' in rows
