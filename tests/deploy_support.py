"""The files of deploy/, as the tests read them."""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

TOP = Path(__file__).parents[1]
DEPLOY = TOP / "deploy"
UNIT = DEPLOY / "systemd" / "xksproxy.service"


class Unit:
    """A systemd unit: what it sets, in the order of the file; a setting may come more than once."""

    def __init__(self, path: Path) -> None:
        self.settings: defaultdict[str, list[str]] = defaultdict(list)
        for line in path.read_text("utf-8").splitlines():
            if line and line[0] not in "#[":
                name, _, value = line.partition("=")
                self.settings[name].append(value)

    def all(self, name: str) -> list[str]:
        return self.settings[name]

    def one(self, name: str) -> str:
        (value,) = self.settings[name]
        return value


def pip(*arguments: str) -> str:
    """Run pip, and return what it prints."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
