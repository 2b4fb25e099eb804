"""What a proxy costs as the number of one kind of thing grows: key stores, keys, credentials, policies or blocks."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from benchmarks import servers
from benchmarks.servers import Server, Setting
from benchmarks.tenants import Neighbour, client_of, idle_share, largest_worker, stop_seconds, use_keys
from benchmarks.tokens import Tokens
from xksproxy.config.credentials import save_credential
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.blocks import Block, block_table

_LOAD_SECONDS: Final = 4.0
_POLICY: Final = '@id("policy-{number}")\npermit (principal, action, resource);\n'


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing: its name, how many there are, and the proxy that has so many."""

    name: str
    sizes: Sequence[int]
    setting: Callable[[int], Setting]
    add: Callable[..., None] = lambda *_, **__: None
    """Adds ``number`` of them to the directory of the proxy before its start."""

    keys_used: bool = False
    """Whether as many keys are used before anything is measured."""


class Cost(msgspec.Struct, frozen=True):
    """What a proxy with so many of a kind costs."""

    size: int
    ready: float
    """Seconds from its start to being ready."""

    memory: float
    """MiB of the largest worker."""

    idle: float
    """The part of a core that it takes while nobody calls it."""

    request_us: float
    """Microseconds of processor time for one Encrypt of a client that sends one after another."""

    p50: float
    p99: float
    """Milliseconds of such a request."""

    stop: float
    """Seconds from SIGTERM to the end."""

    failed: int


def _add_credentials(home: Path, number: int) -> None:
    for _ in range(number - 1):
        save_credential(home / "credentials" / "0", generate_credential())


def _add_policies(home: Path, number: int) -> None:
    (home / "policies").mkdir()
    text = "".join(_POLICY.format(number=each) for each in range(number))
    (home / "policies" / "all.cedar").write_text(text)


def _add_blocks(home: Path, number: int) -> None:
    (home / "state").mkdir(mode=0o700)
    block_table(home / "state", "store-0").add({f"blocked-{each}": Block(0.0) for each in range(number - 1)})


_ONE: Final = Setting(workers=2, own_credentials=True)
KINDS: Final = (
    Kind("key stores", (1, 100, 1_000, 10_000), lambda size: Setting(workers=2, own_credentials=True, key_stores=size)),
    Kind("keys", (1, 1_000, 5_000), lambda size: Setting(workers=2, keys_on_token=size), keys_used=True),
    Kind("credentials", (1, 100, 1_000), lambda _: _ONE, _add_credentials),
    Kind("policies", (1, 100, 1_000), lambda _: Setting(workers=2, own_credentials=True, policies=True), _add_policies),
    Kind("blocks", (1, 1_000, 100_000), lambda _: _ONE, _add_blocks),
)


def measure(tokens: Tokens, directories: Callable[[], Path], kind: Kind, sizes: Sequence[int]) -> Iterator[Cost]:
    """Measure proxies with so many of a kind, one after another."""
    for size in sizes:
        home = directories()
        with servers.proxy(tokens, home, kind.setting(size), add=partial(kind.add, number=size)) as server:
            yield _cost(server, kind, size)


def _cost(server: Server, kind: Kind, size: int) -> Cost:
    use_keys(server, 1, size if kind.keys_used else 1)
    idle = idle_share(server)
    with client_of(server, 0) as client:
        neighbour = Neighbour(client)
        before = server.cpu_seconds()
        with neighbour.busy():
            time.sleep(_LOAD_SECONDS)
        seconds = server.cpu_seconds() - before - idle * _LOAD_SECONDS
    ordered = sorted(neighbour.times)
    return Cost(
        size,
        ready=server.started_in,
        memory=largest_worker(server),
        idle=idle,
        request_us=seconds / len(ordered) * 1e6,
        p50=median(ordered),
        p99=ordered[int(0.99 * (len(ordered) - 1))],
        stop=stop_seconds(server),
        failed=neighbour.failed,
    )
