"""Importing a module has no side effect (no PKCS#11, no thread, no output) and needs no other module first."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import xksproxy_tools

import xksproxy


def _modules(package: Path) -> list[str]:
    return [
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        if path.stem != "__main__"
    ]


_PACKAGES = [Path(package.__file__).parent for package in (xksproxy, xksproxy_tools)]
_MODULES = sorted(module for package in _PACKAGES for module in _modules(package))

# One fresh interpreter with the libraries in it, and a fork of it for each module: only our own code is imported again.
_PROGRAM = """
import json, os, sys, traceback

import cedarpy
import aiohttp.web, aiohttp.worker, botocore.loaders, botocore.model, click, cryptography.x509, gunicorn.app.base
import jinja2, msgspec, pkcs11, prometheus_client.multiprocess, rich.console, rich.live, rich.table, uvloop
import ctypes, difflib, secrets, sqlite3, statistics, tomllib
import cryptography.hazmat.primitives.ciphers.aead, cryptography.hazmat.primitives.serialization

assert not any(name.partition(".")[0] in {"xksproxy", "xksproxy_tools"} for name in sys.modules)


def import_effects(module):
    try:
        __import__(module)
    except BaseException:
        return {"error": traceback.format_exc()}
    with open("/proc/self/maps") as maps:
        softhsm = "softhsm" in maps.read()
    return {"error": "", "threads": len(os.listdir("/proc/self/task")), "softhsm": softhsm}


before = import_effects("sys")
effects = {}
for module in sys.argv[1:]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(import_effects(module), pipe)
        sys.stdout.flush()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        effects[module] = json.load(pipe)
    os.wait()
json.dump({"before": before, "effects": effects}, sys.stderr)
"""


@pytest.mark.timeout(1200)
def test_each_module_can_be_imported_alone_and_without_effects() -> None:
    """The gunicorn master imports them before it forks, and must not have loaded a PKCS#11 module by then."""
    command = [sys.executable, "-c", _PROGRAM, *_MODULES]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(process.stderr)
    alone = {"error": "", "threads": 1, "softhsm": False}

    assert process.stdout == "", "a module prints when it is imported"
    assert result["before"] == alone
    assert {"xksproxy.server.master", "xksproxy_tools.kms_emulator.blob"} <= result["effects"].keys()
    assert {module: effects for module, effects in result["effects"].items() if effects != alone} == {}
