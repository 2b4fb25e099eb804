#!/usr/bin/python3
"""Docker's health check: whether /livez of the health listener answers 200; healthy where ``[health]`` is not set."""

import os
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

_TIMEOUT_SECONDS = 2.0
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def _listen() -> str | None:
    table = tomllib.loads(Path(os.environ["XKSPROXY_CONFIG"]).read_text("utf-8"))
    listen: str | None = table.get("health", {}).get("listen")
    return listen


def _alive(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    url = f"http://{_EVERY_ADDRESS.get(host, host)}:{port}/livez"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            return bool(response.status == 200)  # noqa: PLR2004 - OK
    except (OSError, urllib.error.URLError) as error:
        print(f"{url}: {error}")  # noqa: T201 - `docker inspect` shows it
        return False


if __name__ == "__main__":
    listen = _listen()
    sys.exit(0 if listen is None or _alive(listen) else 1)
