"""What differs between two configurations, by name and never by value."""

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from xksproxy.config.changes import changed_names
from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, Tls
from xksproxy.config.secret import SecretReference

CONFIG = Config(
    server=Server(tls=Tls(certificate="c", private_key="k")),
    hsm=(Hsm(id="one", module="m", pin="1234"), Hsm(id="two", module="m")),
    keystore=(
        KeyStore(name="a", uri_path_prefix="/a", hsms=("one",), credentials="c", keys=(Key(id="k1"), Key(id="k2"))),
        KeyStore(name="b", uri_path_prefix="/b", hsms=("two",), credentials="c", keys=(Key(id="k1"),)),
    ),
)


def of_store(**changes: Any) -> Config:
    return replace(CONFIG, keystore=(replace(CONFIG.keystore[0], **changes), CONFIG.keystore[1]))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda: CONFIG, []),
        (lambda: replace(CONFIG, server=replace(CONFIG.server, workers=5)), ["server.workers"]),
        (lambda: replace(CONFIG, hsm=(replace(CONFIG.hsm[0], pin="5678"), CONFIG.hsm[1])), ["hsm.one.pin"]),
        (
            lambda: replace(CONFIG, hsm=(replace(CONFIG.hsm[0], pin=SecretReference(env="P")), CONFIG.hsm[1])),
            ["hsm.one.pin"],
        ),
        (lambda: replace(CONFIG, hsm=CONFIG.hsm[:1]), ["hsm.two"]),
        (lambda: of_store(requests_per_second=5.0, burst=2.0), ["keystore.a.burst", "keystore.a.requests_per_second"]),
        (
            lambda: of_store(keys=(Key(id="k1", disabled=True), Key(id="k3"))),
            ["keystore.a.keys.k1.disabled", "keystore.a.keys.k2", "keystore.a.keys.k3"],
        ),
        (lambda: of_store(keys=()), ["keystore.a.keys"]),
        (
            lambda: of_store(keys=(Key(id="k1", legacy_metadata=b"x"), Key(id="k2"))),
            ["keystore.a.keys.k1.legacy_metadata"],
        ),
    ],
)
def test_each_change_has_a_name(change: Callable[[], Config], names: list[str]) -> None:
    assert changed_names(CONFIG, change()) == names
