"""Importing a module has no side effect: no PKCS#11, no thread, no output. A contract forbids circles."""

import json
import subprocess
import sys
from pathlib import Path

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

_PROGRAM = """
import importlib, json, os, sys

for module in sys.argv[1:]:
    importlib.import_module(module)
    threads = len(os.listdir("/proc/self/task"))
    with open("/proc/self/maps") as maps:
        softhsm = "softhsm" in maps.read()
    print(json.dumps([module, threads, softhsm]), file=sys.stderr)
"""


def test_no_module_prints_starts_a_thread_or_loads_a_pkcs11_module_when_it_is_imported() -> None:
    """The gunicorn master imports them before it forks, and must not have loaded a PKCS#11 module by then."""
    command = [sys.executable, "-c", _PROGRAM, *_MODULES]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    effects = [json.loads(line) for line in process.stderr.splitlines()]

    assert {"xksproxy.server.master", "xksproxy_tools.kms_emulator.blob"} <= set(_MODULES)
    assert process.stdout == ""
    assert effects == [[module, 1, False] for module in _MODULES]
