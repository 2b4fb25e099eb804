"""Processes, ports and endpoints for the tests."""

import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from xksproxy.client.xks import Endpoint
from xksproxy.devkit.environment import DevEnvironment, admin_port, open_environment
from xksproxy.sigv4.keyring import Credential

REGION = "eu-west-1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def with_free_ports(text: str, *ports: int) -> str:
    """The text of a configuration whose listeners have other ports: those given, in order, and then free ones."""
    wanted = iter(ports)
    return re.sub(
        r'(?m)^listen = "(.*):[0-9]+"$',
        lambda match: f'listen = "{match[1]}:{next(wanted, None) or free_port()}"',
        text,
    )


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until something listens; a process that has ended fails the test with what it said."""
    for _ in range(200):
        if process.poll() is not None:
            raise AssertionError(f"the proxy ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


@dataclass(frozen=True)
class Proxy:
    """A running `xksproxy serve`, its environment, and what a client needs."""

    environment: DevEnvironment
    process: subprocess.Popen[bytes]
    log: Path
    credential: Credential
    second_credential: Credential
    other_credential: Credential

    @property
    def port(self) -> int:
        return self.environment.port

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.environment.authority)

    def endpoint(self, prefix: str = "/dev", credential: Credential | None = None) -> Endpoint:
        return Endpoint(self.host, prefix, REGION, credential or self.credential)


def make_environment(directory: Path) -> DevEnvironment:
    """What `xksproxy dev` makes, in a process of its own: this one has not initialised PKCS#11 yet."""
    code = "import sys; from pathlib import Path; from xksproxy.devkit.environment import open_environment; "
    code += "open_environment(Path(sys.argv[1]), None, int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(directory), str(free_port())], check=True)
    environment = open_environment(directory, None, 0)
    text = environment.config.read_text()
    environment.config.write_text(text.replace(f":{admin_port(environment.port)}", f":{free_port()}"))
    return environment


def serve(config: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "xksproxy", "serve", "--config", str(config)], stdout=output, stderr=output
        )


def metrics_text(proxy: Proxy) -> str:
    """What a proxy's admin listener tells Prometheus."""
    listener = re.search(r'(?m)^\[admin\]\nlisten += "([^"]+)"', proxy.environment.config.read_text())
    assert listener
    with urllib.request.urlopen(f"http://{listener[1]}/metrics", timeout=10) as answer:
        return answer.read().decode()
