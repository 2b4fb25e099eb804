"""Strangers keep nothing of KMS out: `python -m benchmarks.strangers` in short, which says how fast it is answered."""

import pytest
from server_support import OwnProxy
from support import REGION

from benchmarks import strangers
from benchmarks.attack import KINDS
from benchmarks.servers import Server
from xksproxy.client.target import Target

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), tuple(KINDS)], ids=" ".join)
def test_strangers_displace_nothing_of_kms_and_cost_little_memory(
    own_proxy: OwnProxy, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    monkeypatch.setattr(strangers, "_PATIENCE_SECONDS", 60.0)
    proxy = own_proxy.start(server="workers = 1")
    target = Target("localhost", proxy.port, "/dev", REGION, proxy.credential)
    caller = strangers.Caller(target, proxy.context(), "demo-key")

    outcome = strangers.attacked(caller, Server((), proxy.process.pid), kinds, 3.0, strength=0.2)

    assert outcome.new.took
    assert outcome.kept.took
    assert outcome.new.lost == outcome.kept.lost == {}
    assert outcome.largest_mib < 150
