"""Warnings that come with every call."""

import logging

import pytest

from xksproxy.hsm.instance import repeated_warnings
from xksproxy.hsm.instance.repeated_warnings import RepeatedWarnings


def test_the_first_of_a_kind_is_logged_and_the_others_are_summed_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr(repeated_warnings.time, "monotonic", lambda: now)
    warnings = RepeatedWarnings(logging.getLogger("test"), "hsm-a")

    for _ in range(213):
        warnings.warn("HSM session closed after a failure", "CKR_DEVICE_ERROR")
    warnings.warn("HSM session closed after a failure", "CKR_GENERAL_ERROR")
    warnings.summarise()
    assert len(caplog.records) == 2

    now += 10
    warnings.summarise()
    (summary,) = caplog.records[2:]
    assert summary.fields["more"] == 212  # type: ignore[attr-defined]
    assert summary.fields["reason"] == "CKR_DEVICE_ERROR"  # type: ignore[attr-defined]

    warnings.summarise()
    warnings.warn("HSM session closed after a failure", "CKR_DEVICE_ERROR")
    assert len(caplog.records) == 4
