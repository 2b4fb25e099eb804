"""An emulator with a made-up proxy, for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from emulator_support import Harness


@pytest_asyncio.fixture
async def kms(tmp_path: Path) -> AsyncIterator[Harness]:
    made = Harness(tmp_path / "state")
    yield made
    await made.close()
