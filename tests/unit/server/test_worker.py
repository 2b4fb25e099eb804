"""What a worker does before it serves, and regularly while it serves."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xksproxy.server import worker, worker_state
from xksproxy.server.worker_state import WorkerState


class _Services:
    def start(self) -> None:
        pass

    async def tried(self, _seconds: float) -> None:
        pass


async def test_a_worker_without_a_thread_for_the_state_directory_does_not_start() -> None:
    def start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    services: Any = _Services()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "_start_new_thread", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await worker._start(services)


async def test_a_file_system_that_does_not_answer_while_events_are_read_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_state, "_ANSWER_SECONDS", 1e-9)
    services: Any = SimpleNamespace(state=WorkerState(tmp_path, tmp_path), refresh_state=list, instances=())
    asked, answers = asyncio.Event(), asyncio.Event()

    async def follow() -> None:
        asked.set()
        await answers.wait()

    life_cycle: Any = SimpleNamespace(follow=follow)
    recorder: Any = None

    step = asyncio.create_task(worker._follow_state(services, recorder, life_cycle))
    await asked.wait()
    assert "a file system has not answered" in services.state.problem
    answers.set()
    await step
    assert services.state.problem == ""
