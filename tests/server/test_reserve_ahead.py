"""A worker that starts reserves encryptions for the keys in use before its first request."""

import os
import signal
from pathlib import Path

from server_support import OwnProxy, Wire, encrypt_body, key_path, signed_post, wait_for_every_worker, workers
from support import Proxy, eventually

from xksproxy.config.load import load_config
from xksproxy.state.usage import UsageBook


def encryptions(proxy: Proxy, label: str = "demo-key") -> int:
    return UsageBook(Path(load_config(proxy.environment.config).state.directory)).read(label).encryptions


def encrypt(proxy: Proxy) -> None:
    with Wire(proxy) as wire:
        assert wire.ask(signed_post(proxy, key_path("encrypt"), encrypt_body(b"text"))).status == 200


def test_a_new_worker_has_encryptions_of_a_key_in_use_on_record_before_a_request(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start()
    encrypt(proxy)
    before = encryptions(proxy)
    old = workers(proxy)

    os.kill(min(old), signal.SIGKILL)
    eventually(lambda: len(wait_for_every_worker(proxy) - old), 1)

    assert encryptions(proxy) == before + 16
    assert encryptions(proxy, "impotent-key") == 0


def test_nothing_is_reserved_for_a_key_near_its_maximum(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(
        edit=lambda text: text.replace('id = "demo-key"', 'id = "demo-key"\nmaximum_encryptions = 1000', 1)
    )
    encrypt(proxy)
    before = encryptions(proxy)
    old = workers(proxy)

    os.kill(min(old), signal.SIGKILL)
    eventually(lambda: len(wait_for_every_worker(proxy) - old), 1)

    assert encryptions(proxy) == before
