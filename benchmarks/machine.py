"""The properties of the machine on which results were measured."""

import os
import platform
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from xksproxy import __version__


def properties() -> dict[str, str]:
    """What a reader needs to check_response them, now."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": f"xksproxy {__version__}, commit {_commit()}",
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores for load and server together",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "load before": f"{os.getloadavg()[0]:.1f} (mean of the last minute)",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
