"""Every check passes on a correct proxy, and fails on a proxy with a defect that it must find."""

import pytest
from stub_proxy.behaviour import Defect
from stub_proxy.defects import DEFECTS
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.check import Chapter, Check
from xksproxy_tools.conformance.checks import CHAPTERS
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.runner import CHECKABLE_ANSWER, run_check
from xksproxy_tools.conformance.subject import Limits, Subject

# A timeout is no false alarm here, because the proxy has a defect.
STRICT = Limits(
    timeout_seconds=2.0, answer_milliseconds=100.0, freshness_seconds=0.3, pauses_when_busy=(), timed_requests=1
)

_CHECKS = {check.id: (chapter, check) for chapter in CHAPTERS for check in chapter.checks}
_FOUND_BY = [(defect, check_id) for defect in DEFECTS for check_id in defect.fails]


def test_ids_and_names_are_unique_and_every_check_has_a_defect() -> None:
    assert len(_CHECKS) == sum(len(chapter.checks) for chapter in CHAPTERS)
    assert len(DEFECTS) == len({defect.name for defect in DEFECTS})
    assert {check_id for _, check_id in _FOUND_BY} == set(_CHECKS)


@pytest.mark.parametrize(("chapter", "check"), _CHECKS.values(), ids=_CHECKS.keys())
def test_a_correct_proxy_passes(subject: Subject, chapter: Chapter, check: Check) -> None:
    result = run_check(chapter, check, subject)

    assert result.outcome is Outcome.PASSED, result


@pytest.mark.parametrize(
    ("defect", "check_id"), _FOUND_BY, ids=[f"{defect.name}-{check_id}" for defect, check_id in _FOUND_BY]
)
def test_a_proxy_with_a_defect_fails(stub: StubProxy, subject: Subject, defect: Defect, check_id: str) -> None:
    stub.behave(defect.behaviour())
    subject.limits = STRICT

    result = run_check(*_CHECKS[check_id], subject)

    assert result.outcome is Outcome.FAILED, result
    assert result.expected not in ("", CHECKABLE_ANSWER), result
    assert result.got
