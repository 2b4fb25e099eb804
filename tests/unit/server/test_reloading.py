"""How a worker that serves takes a changed configuration into use."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import make_environment

from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.server import reloading as module
from xksproxy.server.reloading import Reloading


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return load_config(make_environment(tmp_path_factory.mktemp("reloading") / "dev").config)


class Worker:
    """A worker that builds nothing."""

    def __init__(self, load: Callable[[], Config], config: Config, runtime: Path, request: str = "") -> None:
        self.used: list[Config] = []
        self.followed: list[str] = []
        self.failed: list[int] = []
        self.checks: list[str] = []
        hsms = tuple(SimpleNamespace(check_soon=partial(self.checks.append, name)) for name in ("a", "b"))
        services: Any = SimpleNamespace(replace_snapshot=lambda config, _: self.used.append(config), instances=hsms)
        metrics: Any = SimpleNamespace(
            reload_failed=SimpleNamespace(labels=lambda: SimpleNamespace(set=self.failed.append))
        )

        def take() -> Any:
            return SimpleNamespace(config=load(), number=2, request=request)

        self._reloading = Reloading(take, config, services, metrics, runtime)

    async def reload(self) -> None:
        await self._reloading.reload(self.followed.append)


async def test_the_event_loop_goes_on_while_a_configuration_is_read(config: Config, tmp_path: Path) -> None:
    may_end = threading.Event()

    def load() -> Config:
        assert may_end.wait(60)
        return config

    worker = Worker(load, config, tmp_path, "request")
    task = asyncio.create_task(worker.reload())
    for _ in range(10):
        await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    await task

    assert (worker.used, worker.followed, worker.failed) == ([config], ["request"], [0])
    assert worker.checks == ["a", "b"], "the new configuration may name keys that were made since the last check"


async def test_workers_take_turns(config: Config, tmp_path: Path) -> None:
    inside, most = 0, 0

    def load() -> Config:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.05)
        inside -= 1
        return config

    workers = [Worker(load, config, tmp_path) for _ in range(4)]
    await asyncio.gather(*(worker.reload() for worker in workers))

    assert most == 1
    assert all(worker.used for worker in workers)


async def test_a_worker_that_is_stuck_holds_up_no_other_for_ever(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TURN_SECONDS", 0.1)
    inside, may_end = threading.Event(), threading.Event()

    def load() -> Config:
        inside.set()
        assert may_end.wait(60)
        return config

    stuck, other = Worker(load, config, tmp_path), Worker(lambda: config, config, tmp_path)
    task = asyncio.create_task(stuck.reload())
    assert await asyncio.to_thread(inside.wait, 60)

    await other.reload()

    assert other.used
    assert not stuck.used
    may_end.set()
    await task


@pytest.mark.parametrize("error", [ConfigError(["bad"]), RuntimeError("worse")])
async def test_a_configuration_that_cannot_be_used_changes_nothing(
    config: Config, tmp_path: Path, error: Exception
) -> None:
    def load() -> Config:
        raise error

    worker = Worker(load, config, tmp_path)
    await worker.reload()

    assert (worker.used, worker.followed, worker.failed) == ([], [], [1])


async def test_a_runtime_directory_without_room_for_the_lock_keeps_no_configuration_out(
    config: Config, tmp_path: Path
) -> None:
    worker = Worker(lambda: config, config, tmp_path / "removed")

    await worker.reload()

    assert (worker.used, worker.failed) == ([config], [0])
