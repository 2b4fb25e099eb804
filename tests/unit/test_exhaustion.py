"""Failures that are no defects."""

import asyncio
import logging
import ssl

import pytest

from xksproxy.exhaustion import exhaustion
from xksproxy.server import regular_steps


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "not enough memory"),
        (ValueError("[digital envelope routines] malloc failure"), "not enough memory"),
        (ssl.SSLError(1, "malloc failure"), "not enough memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (RuntimeError("another"), None),
        (ValueError(), None),
    ],
)
def test_what_ran_out_is_named(error: Exception, reason: str | None) -> None:
    text = exhaustion(error)

    assert text is None if reason is None else text is not None and text.startswith(reason)


async def test_a_regular_task_without_a_thread_is_one_line_and_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regular_steps, "_PAUSE_SECONDS", 0)
    failures, done = [RuntimeError("can't start new thread")], asyncio.Event()

    async def step() -> None:
        if failures:
            raise failures.pop()
        done.set()

    task = asyncio.create_task(regular_steps.regularly(step, 0))
    await done.wait()
    task.cancel()

    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (record.message, record.exc_info) == ("a regular task cannot run", None)
