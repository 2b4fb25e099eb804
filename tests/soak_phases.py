"""The phases of the soak: what lasts longer than a passing fault. Each runs under load; every answer must be right."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fault_support import change_key, with_second_token
from p11_kit_support import CLIENT, P11KitServer, find_library, server_address
from soak_proxy import SoakProxy, hsm_table

from xksproxy.config.model import Hsm

_OVERLOADED: Final = frozenset({"ThrottlingException", "DependencyTimeoutException"})
"""What else than an answer is right while more is asked than the HSMs can do."""

PHASE_SECONDS: Final = 6
_RECONNECTS_SECONDS: Final = 60
_RELOADS: Final = 5
_LOG_IN_SECONDS: Final = 5
"""Longer than any bound of a request."""

_NO_GCM: Final = "C_EncryptInit: CKR_MECHANISM_INVALID"

Phase = Callable[[SoakProxy, float], Awaitable[None]]


async def overload(proxy: SoakProxy, rate: float) -> None:
    """Slow HSMs, and as many further requests as make it more than they can do; a few, if it is more without them."""
    proxy.tolerated = _OVERLOADED
    for hsm in proxy.hsms:
        hsm.tell("C_Encrypt delay 50", "C_Decrypt delay 50")
    sessions = sum(hsm.hsm.sessions for hsm in proxy.hsms) * len(proxy.workers())
    await proxy.load(PHASE_SECONDS, max(1.0, sessions / 0.05 - rate))
    for hsm in proxy.hsms:
        hsm.tell()
    assert proxy.all_serve(), "an HSM left service because it was slow"


async def repeat_random_bytes(proxy: SoakProxy, _: float) -> None:
    """The HSM leaves service as soon as it is noticed, and returns half a minute after the generator is well."""
    proxy.hsms[0].tell("random constant")
    await asyncio.sleep(PHASE_SECONDS)
    proxy.hsms[0].tell()
    await asyncio.sleep(1)
    await proxy.recovered()


async def reload(proxy: SoakProxy, _: float) -> None:
    """Another configuration, again and again."""
    for number in range(_RELOADS):
        old, new = ('"impotent-key"', '"impotent-*"')[:: 1 if number % 2 == 0 else -1]
        proxy.configure(lambda text, old=old, new=new: text.replace(old, new))  # type: ignore[misc]
        proxy.reload()
        await asyncio.sleep(PHASE_SECONDS / _RELOADS)


async def restart(proxy: SoakProxy, _: float) -> None:
    """SIGTERM and a new start."""
    await proxy.restart()
    await proxy.recovered()


async def slow_log_in_at_start(proxy: SoakProxy, _: float) -> None:
    """C_Login of one HSM takes 5 s when the proxy starts; the other one serves meanwhile."""
    slow = proxy.hsms[1]
    slow.tell(f"C_Login delay {1000 * _LOG_IN_SECONDS}")
    await proxy.restart()
    await _connects_slowly(proxy, slow.hsm, "at the start")
    slow.tell()


async def slow_log_in_again(proxy: SoakProxy, _: float) -> None:
    """One HSM loses all sessions with the log-in, and the next log-in takes 5 s; the other one serves meanwhile."""
    slow = proxy.hsms[0]
    slow.tell(f"C_Login delay {1000 * _LOG_IN_SECONDS}", "drop")
    await _connects_slowly(proxy, slow.hsm, "later")
    slow.tell()


async def _connects_slowly(proxy: SoakProxy, hsm: Hsm, when: str) -> None:
    """Until it serves with all sessions: meanwhile the status says where it is, and no worker is replaced."""
    workers, began = proxy.workers(), time.monotonic()
    await proxy.until(lambda: "in C_Login since" in proxy.status_of(hsm.id).get("reason", ""))
    await proxy.until(lambda: proxy.serves(hsm.id) and _sessions(proxy)[hsm.id] == hsm.sessions * len(workers))
    proxy.outcome.notes.append(
        f"log-in of {_LOG_IN_SECONDS} s {when}: {hsm.id} serves in all {len(workers)} workers"
        f" after {time.monotonic() - began:.1f} s"
    )
    assert proxy.workers() == workers, "a worker was replaced because an HSM connects slowly"


async def take_sessions(proxy: SoakProxy, _: float) -> None:
    """Another program takes one session of each HSM, and gives it back after a while."""
    wanted = {item.hsm.id: item.hsm.sessions * len(proxy.workers()) for item in proxy.hsms}
    for item in proxy.hsms:
        # One session is lost in each process, and there is room for all the others and that of the log-in alone.
        item.tell(f"sessions {item.hsm.sessions}", "C_EncryptInit return 0xb3 count=1")
    fewer = {hsm: count - len(proxy.workers()) for hsm, count in wanted.items()}
    await proxy.until(lambda: _sessions(proxy) == fewer)
    await asyncio.sleep(PHASE_SECONDS)
    assert proxy.all_serve(), "an HSM left service because it has a session less"
    for item in proxy.hsms:
        item.tell()
    await proxy.until(lambda: _sessions(proxy) == wanted)


def _sessions(proxy: SoakProxy) -> dict[str, int]:
    """The sessions of each HSM, of all workers together."""
    return {item.hsm.id: proxy.status_of(item.hsm.id).get("sessions", 0) for item in proxy.hsms}


async def swap_slots(proxy: SoakProxy, _: float) -> None:
    """Two tokens of one module, both in use, swap their slots and swap them back."""
    first = proxy.hsms[0]
    second = with_second_token(first).hsm
    pin = proxy.environment.directory / "second-pin"
    pin.write_text(str(second.pin))
    pin.chmod(0o600)
    text = proxy.configure(
        lambda text: (
            text.replace(
                "[[keystore]]",
                hsm_table("second", second.module, second.token, pin.name, second.environment) + "[[keystore]]",
                1,
            )
            + '\n[[keystore]]\nname = "second"\nuri_path_prefix = "/second"\nhsms = ["second"]\n'
            + 'credentials = "credentials"\n[[keystore.keys]]\nid = "second-key"\n'
        )
    )
    await proxy.restart()
    both = first.hsm.id, "second"
    for rules in (("swap", "drop"), ("drop",)):
        await proxy.until(lambda: all(proxy.serves(hsm) for hsm in both))
        first.tell(*rules)
        await asyncio.sleep(PHASE_SECONDS)
    await proxy.until(lambda: all(proxy.serves(hsm) for hsm in both))
    first.tell()
    proxy.configure(lambda _: text)
    await proxy.restart()


async def restart_p11_kit_server(proxy: SoakProxy, _: float) -> None:
    """A third HSM is reached through `p11-kit server`, which is killed and started again, while the others serve."""
    module = find_library(CLIENT)
    if module is None:
        proxy.outcome.notes.append("restart_p11_kit_server was NOT run: p11-kit-modules is not installed")
        return
    server = P11KitServer(proxy.directory / "p11-kit", proxy.environment.directory / "softhsm2.conf")
    environment = server_address(proxy.directory / "p11-kit")
    table = hsm_table("remote", str(module), proxy.hsms[0].hsm.token, "pin", environment)
    text = proxy.configure(
        lambda text: text.replace("[[keystore]]", table + "[[keystore]]", 1).replace('"hsm-b"]', '"hsm-b", "remote"]')
    )
    server.start()
    try:
        await proxy.restart()
        await proxy.until(lambda: _is_reached(proxy))
        server.kill()
        await proxy.until(lambda: bool(proxy.status_of("remote")) and not _is_reached(proxy))
        await asyncio.sleep(PHASE_SECONDS)
        server.start()
        began = time.monotonic()
        await proxy.until(lambda: _is_reached(proxy))
        healed = f"{time.monotonic() - began:.1f} s after p11-kit server was started again"
        proxy.outcome.notes.append(
            f"the HSM behind it serves {healed}"
            if proxy.serves("remote")
            else f"restart_p11_kit_server: this release of p11-kit does not transport AES-GCM, so its HSM never serves;"
            f" it was logged in again {healed}, and refused for {_NO_GCM} as before"
        )
        proxy.configure(lambda _: text)
        await proxy.restart()
    finally:
        server.kill()


def _is_reached(proxy: SoakProxy) -> bool:
    """Whether the last attempt got as far as AES-GCM, which p11-kit before 0.25 does not transport."""
    return proxy.serves("remote") or _NO_GCM in proxy.status_of("remote").get("reason", "")


async def replace_key(proxy: SoakProxy, _: float) -> None:
    """Another key under the label, on one HSM for good: it refuses the key, and the other one answers."""
    pin = (proxy.environment.directory / "pin").read_text().strip()
    for value in (None, os.urandom(32)):
        await asyncio.to_thread(change_key, proxy.hsms[1], pin, "demo-key", value)


PHASES: Final[dict[str, Phase]] = {
    phase.__name__: phase
    for phase in (
        overload,
        repeat_random_bytes,
        reload,
        restart,
        slow_log_in_at_start,
        slow_log_in_again,
        take_sessions,
        swap_slots,
        restart_p11_kit_server,
        replace_key,
    )
}
"""By their names, in the order in which they are run. The last one is for good."""


async def run_phase(proxy: SoakProxy, rate: float, name: str) -> None:
    """Run a phase under load, which lasts as long as the phase and at least some seconds."""
    proxy.phase = name
    proxy.outcome.faults[name] += 1
    async with asyncio.timeout(PHASE_SECONDS + 3 * _RECONNECTS_SECONDS):
        phase = asyncio.ensure_future(PHASES[name](proxy, rate))
        for _ in range(PHASE_SECONDS):
            await proxy.load(1, rate)
        while not phase.done():
            await proxy.load(1, rate)
        await phase
    proxy.tolerated = frozenset()
    proxy.phase = ""
