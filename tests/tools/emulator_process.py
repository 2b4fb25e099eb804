"""A running `xksproxy kms-emulator`, and boto3 to use it with."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from support import PATIENCE_SECONDS, REGION, Proxy, eventually

# What is slow on a loaded machine is no time-out of the proxy's.
PATIENT = ("--time-limit-ms", "40000")


def proxy_options(proxy: Proxy) -> list[str]:
    """What makes the emulator reach a proxy of the tests as https://localhost."""
    trust = ["--ca", str(proxy.environment.authority)]
    return [*trust, "--resolve", f"localhost:443=127.0.0.1:{proxy.port}", *PATIENT]


@contextmanager
def running_emulator(state: Path, *options: str, **environment: str) -> Iterator[str]:
    """An emulator on any free port, as its URL; it is ended by SIGTERM, and must end well."""
    command = [sys.executable, "-m", "xksproxy", "kms-emulator", "--listen", "127.0.0.1:0", "--state", str(state)]
    log = state.with_suffix(".log")
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            yield _url(process, log)
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log.read_text()


def _url(process: "subprocess.Popen[str]", log: Path) -> str:
    assert process.stdout
    for line in process.stdout:
        if match := re.search(r"serving on (http://\S+)", line):
            return match[1]
    raise AssertionError(f"the emulator ended: {log.read_text()}")


def kms_client(url: str, access_key_id: str = "alice") -> Any:
    """boto3's client of KMS, with a credential that means nothing, which tries once."""
    return boto3.client(
        "kms",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key="not-verified",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60),
    )


def wait_for_state(kms: Any, store_id: str, state: str) -> dict[str, Any]:
    """The entry of a key store once it has a connection state."""

    def entry() -> dict[str, Any]:
        (found,) = kms.describe_custom_key_stores(CustomKeyStoreId=store_id)["CustomKeyStores"]
        assert found["ConnectionState"] == state or found["ConnectionState"].endswith("ING"), found
        return dict(found)

    eventually(lambda: entry()["ConnectionState"], state)
    return entry()
