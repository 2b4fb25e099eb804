"""The page of a report: title, result, properties, and sections with tables and charts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from xksproxy import __version__


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its content. ``body`` is HTML, for example from :func:`table` or a chart."""

    title: str
    body: Markup


@dataclass(frozen=True, slots=True)
class Page:
    """The content of a report."""

    title: str
    result: str
    good: bool
    """Whether the result is shown as a good one."""

    subject: str
    """The subject of the report, such as the URL of a key store."""

    properties: Sequence[tuple[str, str]] = ()
    """Names and values below the title."""

    sections: Sequence[Section] = ()
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def render(page: Page) -> str:
    """Render a complete HTML document."""
    environment = Environment(loader=PackageLoader("xksproxy_tools.report"), autoescape=select_autoescape())
    template = environment.get_template("page.html")
    return template.render(page=page, version=__version__, time=f"{page.made_at:%Y-%m-%d %H:%M} UTC")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers_from: int = 1) -> Markup:
    """A table. Cells from column ``numbers_from`` on are aligned right. Cells of type Markup are not escaped."""
    rows = [columns, *rows]
    lines = [_row(row, "td" if at else "th", numbers_from) for at, row in enumerate(rows)]
    return Markup('<div class="wide"><table>\n{}</table></div>\n').format(Markup().join(lines))


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; ``kind`` is "", "good", "bad", "warn" or "dim"."""
    return Markup('<p class="{}">{}</p>\n').format(kind, text)


def _row(cells: Sequence[object], tag: str, numbers_from: int) -> Markup:
    parts = [
        Markup('<{} class="{}">{}').format(tag, "n" if at >= numbers_from else "", cell)
        for at, cell in enumerate(cells)
    ]
    return Markup("<tr>{}</tr>\n").format(Markup().join(parts))
