"""What a key store gets of an HSM while another one asks for more than the HSM can do."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from fault_support import FaultyHsm, is_quiet, until

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import HsmBusy
from xksproxy.hsm.instance.gcm_requests import Encryption
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.shares import Share
from xksproxy.hsm.pkcs11.modules import Modules

GREEDY, MODEST = Share("greedy", 1), Share("modest", 1)
MILLISECONDS = 20


async def encrypt(instance: Instance, share: Share, seconds: float = 60) -> None:
    await instance.call(Encryption("demo-key", b"text", b"", None, None), Deadline.after(seconds), share)


async def test_a_key_store_that_asks_for_little_is_served_in_its_turn_and_the_greedy_one_is_throttled(
    make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    faulty = make_faulty(check_interval_s=600)
    instance = Instance(msgspec.structs.replace(faulty.hsm, sessions=1), modules)
    instance.start()
    try:
        await until(lambda: is_quiet(instance))
        faulty.tell(f"C_Encrypt delay {MILLISECONDS}")
        await encrypt(instance, MODEST)
        served = 0

        async def again_and_again() -> None:
            nonlocal served
            while True:
                await encrypt(instance, GREEDY)
                served += 1

        greedy = [asyncio.create_task(again_and_again()) for _ in range(30)]
        await until(lambda: served > 0)
        between = []
        for _ in range(10):
            before = served
            await encrypt(instance, MODEST)
            between.append(served - before)
        with pytest.raises(HsmBusy):
            await encrypt(instance, GREEDY, seconds=10 * MILLISECONDS / 1000)
        for task in greedy:
            task.cancel()
        await asyncio.gather(*greedy, return_exceptions=True)

        assert max(between) <= 3  # one that runs, and two whose answers the event loop sees in the same turn
        assert sum(between) >= 5  # it is served in turn, not first of all
    finally:
        faulty.tell()
        instance.stop()
