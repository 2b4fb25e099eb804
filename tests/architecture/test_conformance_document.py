"""docs/conformance.md publishes a result for every check and a reason for every requirement without one."""

import re
from pathlib import Path

from xksproxy_tools.conformance.catalogue import CATALOGUE
from xksproxy_tools.conformance.checks import CHAPTERS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text("utf-8")


def test_the_table_has_every_check_and_no_other() -> None:
    published = re.findall(r"(?m)^\| `([a-z0-9-]+)` \| (?:MUST|SHOULD|MAY) \|", DOCUMENT)

    assert published == [check.id for chapter in CHAPTERS for check in chapter.checks]


def test_every_requirement_that_is_not_checked_has_its_reason() -> None:
    checked = {requirement for chapter in CHAPTERS for check in chapter.checks for requirement in check.requirements}
    published = re.findall(r"(?m)^\| (R-[A-Z]+-[0-9]+) \|", DOCUMENT)

    assert published == [entry.id for entry in CATALOGUE if entry.id not in checked]
