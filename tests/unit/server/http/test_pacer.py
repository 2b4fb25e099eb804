"""Those who can wait have a few turns in each round of the event loop."""

import asyncio

from xksproxy.server.http.pacer import Pacer


async def test_a_round_has_a_few_turns_and_others_run_between_rounds() -> None:
    loop = asyncio.get_running_loop()
    pacer, ran = Pacer(loop, 3), []
    for number in range(8):
        pacer.add(lambda number=number: ran.append(number))

    rounds = []
    while len(ran) < 8:
        await asyncio.sleep(0)
        rounds.append(len(ran))
    assert ran == list(range(8))
    assert rounds[-3:] == [3, 6, 8]


async def test_a_caller_that_returns_goes_to_the_end() -> None:
    pacer, ran = Pacer(asyncio.get_running_loop(), 1), []

    def again() -> None:
        ran.append("again")
        if len(ran) < 4:
            pacer.add(again)

    pacer.add(again)
    pacer.add(lambda: ran.append("other"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert ran == ["again", "other", "again", "again"]
