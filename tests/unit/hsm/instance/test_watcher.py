"""When an HSM is checked in the background."""

import asyncio

from xksproxy.hsm.instance.watcher import Watcher


class Watched:
    """An HSM in service whose next check is due in an hour."""

    id = "hsm"

    def __init__(self) -> None:
        self.checked = asyncio.Event()

    def in_service(self) -> bool:
        return True

    def check_interval(self) -> float:
        return 3600

    async def check(self) -> None:
        self.checked.set()

    async def try_to_serve(self) -> None:
        raise AssertionError("it serves")


async def test_a_check_can_be_made_before_it_is_due() -> None:
    watched = Watched()
    watcher = Watcher(watched)
    watcher.start()
    try:
        while not watcher.pausing:  # noqa: ASYNC110 - a pause begins without an event
            await asyncio.sleep(0)
        watcher.wake()
        await asyncio.sleep(0.01)
        assert not watched.checked.is_set()

        watcher.check_soon()

        async with asyncio.timeout(60):
            await watched.checked.wait()
    finally:
        watcher.stop()
