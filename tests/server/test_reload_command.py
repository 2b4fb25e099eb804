"""`xksproxy reload`: the service checks its configuration itself, and the command reports the verdict."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from server_support import OwnProxy, assert_serving, workers
from support import eventually, wait_until_serving

pytestmark = pytest.mark.slow


def _reload(spawn: Callable[..., Any], proxy: Any) -> Any:
    return spawn("reload", "--config", proxy.environment.config)


def test_a_usable_configuration_is_in_use_in_every_worker_when_the_command_returns(
    own_proxy: OwnProxy, spawn: Callable[..., Any]
) -> None:
    proxy = own_proxy.start(server="workers = 2")
    pids = workers(proxy)
    config = proxy.environment.config
    config.write_text(config.read_text().replace('id = "impotent-key"', 'id = "impotent-*"'))

    done = _reload(spawn, proxy)

    assert (done.code, done.err) == (0, "")
    assert done.text == f"the configuration is in use: process {', '.join(map(str, sorted(pids)))}\n"
    # Lines of the log are written up to 10 ms later.
    eventually(lambda: proxy.log.read_text().count("configuration in place"), len(pids))


def test_workers_that_must_be_replaced_are_replaced_when_the_command_returns(
    own_proxy: OwnProxy, spawn: Callable[..., Any]
) -> None:
    proxy = own_proxy.start(server="workers = 1\nmax_in_flight = 10")
    before = workers(proxy)
    config = proxy.environment.config
    config.write_text(config.read_text().replace("max_in_flight = 10", "max_in_flight = 11"))

    done = _reload(spawn, proxy)

    assert done.code == 0, done.err
    after = wait_until_serving(config, proxy.process) - before
    assert done.text == f"the configuration is in use: process {', '.join(map(str, after))}\n"


def test_a_configuration_that_the_service_refuses_fails_with_its_reason(
    own_proxy: OwnProxy, spawn: Callable[..., Any]
) -> None:
    proxy = own_proxy.start(server="workers = 1")
    config = proxy.environment.config
    config.write_text(re.sub(r"(?m)^certificate = .*$", 'certificate = "none.pem"', config.read_text()))

    done = _reload(spawn, proxy)

    assert done.code == 1
    first, *reasons = done.err.splitlines()
    assert first == "xksproxy: the configuration was refused; the old one stays in use:"
    assert any("server.tls.certificate: no file" in reason for reason in reasons)
    assert "configuration in place" not in proxy.log.read_text()
    assert_serving(proxy)


@pytest.mark.parametrize("line", ["unknown = 1", "unfinished = [", 'workers = "two"'])
def test_a_configuration_that_the_command_cannot_load_is_refused_by_the_service(
    own_proxy: OwnProxy, spawn: Callable[..., Any], line: str
) -> None:
    """So that status, metrics and log know that the change is not in use."""
    proxy = own_proxy.start(server="workers = 1")
    config = proxy.environment.config
    config.write_text(config.read_text().replace("[server.tls]", f"{line}\n[server.tls]"))

    done = _reload(spawn, proxy)

    assert done.code == 1, done.err
    assert "the configuration was refused; the old one stays in use:" in done.err
    eventually(lambda: "reload-refused" in spawn("status", "--config", config).text)


def test_a_change_that_is_taken_back_fails_with_its_reason(own_proxy: OwnProxy, spawn: Callable[..., Any]) -> None:
    proxy = own_proxy.start(server="workers = 1")
    config = proxy.environment.config
    config.write_text(re.sub(r'(?m)^listen = "127', 'listen = "192.0.2.1:443" #', config.read_text(), count=1))

    done = _reload(spawn, proxy)

    assert done.code == 1
    assert "cannot listen on" in done.err


def test_without_a_proxy_nothing_is_done(own_proxy: OwnProxy, spawn: Callable[..., Any]) -> None:
    proxy = own_proxy.start(server="workers = 1")
    proxy.process.terminate()
    proxy.process.wait()

    done = _reload(spawn, proxy)

    assert done.code == 2
    assert "no proxy runs" in done.err
