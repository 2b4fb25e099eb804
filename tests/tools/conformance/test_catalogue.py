"""Every requirement is checked, or there is a reason why not."""

from xksproxy_tools.conformance.catalogue import CATALOGUE
from xksproxy_tools.conformance.checks import CHAPTERS

_CHECKED = {name for chapter in CHAPTERS for check in chapter.checks for name in check.requirements}
_UNCHECKED = {requirement.id for requirement in CATALOGUE if requirement.unchecked}


def test_the_catalogue_has_each_requirement_once() -> None:
    numbers = {"TLS": 11, "URI": 12, "AUTH": 13, "REQ": 10, "META": 7, "ENC": 13, "DEC": 7, "HLTH": 8, "CDIV": 8}
    numbers |= {"ERR": 4, "AUTHZ": 5, "LOG": 5, "LB": 3, "CONF": 2, "TIME": 3}

    assert [requirement.id for requirement in CATALOGUE] == [
        f"R-{name}-{number}" for name, last in numbers.items() for number in range(1, last + 1)
    ]


def test_each_requirement_is_either_checked_or_has_a_reason_why_not() -> None:
    assert not _CHECKED & _UNCHECKED
    assert {requirement.id for requirement in CATALOGUE} == _CHECKED | _UNCHECKED
