"""Importing a module has no effect (no PKCS#11, no thread, no output) and needs no other module first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import xksproxy

_ROOT = Path(xksproxy.__file__).parent
_MODULES = sorted(
    ".".join(path.relative_to(_ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in _ROOT.rglob("*.py")
    if path.stem != "__main__"
)

# One fresh interpreter with the libraries in it, and a fork of it for each module: only our own code is imported anew.
_PROGRAM = """
import json, os, sys, traceback

import cedarpy
import aiohttp.web, aiohttp.worker, botocore.loaders, botocore.model, click, cryptography.x509, gunicorn.app.base
import jinja2, msgspec, pkcs11, prometheus_client.multiprocess, rich.console, rich.live, rich.table, uvloop

assert not any(name.partition(".")[0] == "xksproxy" for name in sys.modules)


def facts(module):
    try:
        __import__(module)
    except BaseException:
        return {"error": traceback.format_exc()}
    with open("/proc/self/maps") as maps:
        softhsm = "softhsm" in maps.read()
    return {"error": "", "threads": len(os.listdir("/proc/self/task")), "softhsm": softhsm}


before = facts("sys")
found = {}
for module in sys.argv[1:]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(facts(module), pipe)
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        found[module] = json.load(pipe)
    os.wait()
json.dump({"before": before, "found": found}, sys.stderr)
"""


@pytest.fixture(scope="module")
def imported() -> dict[str, dict[str, object]]:
    """What importing each module by itself did."""
    command = [sys.executable, "-c", _PROGRAM, *_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout == "", "a module prints when it is imported"
    result = json.loads(done.stderr)
    assert result["before"]["threads"] == 1
    assert not result["before"]["softhsm"]
    found: dict[str, dict[str, object]] = result["found"]
    return found


def test_there_are_modules_in_every_room() -> None:
    rooms = {module.split(".")[1] for module in _MODULES if module.count(".") > 1}

    assert rooms >= {
        "aead",
        "authorization",
        "cli",
        "client",
        "config",
        "devkit",
        "hsm",
        "keystore",
        "operations",
        "server",
        "sigv4",
    }


@pytest.mark.parametrize("module", _MODULES)
def test_a_module_can_be_imported_by_itself(imported: dict[str, dict[str, object]], module: str) -> None:
    assert imported[module]["error"] == ""


@pytest.mark.parametrize("module", _MODULES)
def test_importing_a_module_neither_loads_an_hsm_module_nor_starts_a_thread(
    imported: dict[str, dict[str, object]], module: str
) -> None:
    # The gunicorn master imports them before it forks; it must not have touched PKCS#11 by then.
    assert imported[module]["softhsm"] is False
    assert imported[module]["threads"] == 1
