"""The page of the admin listener in a browser."""

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from server_support import Caller
from support import Proxy, eventually

from xksproxy.config.load import load_config


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    """A headless browser's command line, with a profile of its own."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    assert found is not None, "chromium is missing; ./dev test installs it"
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb")
    return [found, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,900"]


def colours(png: Path) -> set[bytes]:
    """The colours of the pixels in a PNG's first rows, unfiltered rows only: a blank page has one."""
    data = png.read_bytes()
    width = struct.unpack(">I", data[16:20])[0]
    chunks = b"".join(re.findall(rb"(?s)IDAT(.*?)(?=.{4}.{4}I(?:DAT|END))", data))
    rows = zlib.decompressobj().decompress(chunks)
    return {rows[place : place + 3] for place in range(1, width * 300, 3)}


def test_the_page_shows_the_state_at_a_glance(proxy: Proxy, caller: Caller, browser: list[str], tmp_path: Path) -> None:
    caller.encrypt("no-such-key", b"x")
    url = f"http://{load_config(proxy.environment.config).admin.listen}/"

    def text() -> str:
        done = subprocess.run([*browser, "--dump-dom", url], capture_output=True, text=True, check=True)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", done.stdout.partition("<body>")[2]))

    wanted = ["KeyNotFoundException", "serving", "softhsm", "2 of 2", "Key store dev", "demo-key"]
    wanted.append(proxy.credential.access_key_id)

    def missing() -> list[str]:
        shown = text()
        return [part for part in wanted if part not in shown]

    eventually(missing, [])

    picture = tmp_path / "page.png"
    subprocess.run([*browser, f"--screenshot={picture}", url], capture_output=True, check=True)
    assert len(colours(picture)) > 10
