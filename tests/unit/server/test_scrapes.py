"""Scrapes that overlap share one rendering, and none after it does."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from xksproxy.server import scrapes
from xksproxy.server.scrapes import Scrapes
from xksproxy.server.services import Services
from xksproxy.telemetry.collectors import MachineInfo
from xksproxy.telemetry.metrics import Metrics


async def test_scrapes_that_overlap_share_one_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end, looked = threading.Event(), threading.Event(), []

    def look(_: Any) -> MachineInfo:
        looked.append(1)
        began.set()
        may_end.wait()
        return MachineInfo((), (), "name", 0.0)

    monkeypatch.setattr(scrapes, "machine_info", look)
    rendered = Scrapes(cast(Services, None), Metrics(tmp_path), 1000, lambda: None, ThreadPoolExecutor())

    tasks = [asyncio.create_task(rendered.render(generate_latest)) for _ in range(5)]
    await asyncio.to_thread(began.wait)
    tasks.append(asyncio.create_task(rendered.render(generate_latest)))
    await asyncio.sleep(0)
    tasks[0].cancel()
    may_end.set()
    contents = await asyncio.gather(*tasks[1:])

    assert len(looked) == 1
    assert all(content is contents[0] for content in contents)
    await rendered.render(generate_latest)
    assert len(looked) == 2
