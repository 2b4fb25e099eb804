"""What a worker does before it serves."""

import threading
from typing import Any

import pytest

from xksproxy.server import worker


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
