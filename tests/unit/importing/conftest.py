"""Plans from small settings files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from importing_support import changed

from xksproxy.importing.plan import Plan, make_plan
from xksproxy.importing.settings import read_settings

BASE = Path("/srv/sample")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Write a settings file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "settings.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def plan(written: Callable[[str], Path]) -> Callable[..., Plan]:
    """The plan of the settings with some texts replaced."""

    def make(*changes: tuple[str, str], token: str | None = "production") -> Plan:
        return make_plan(read_settings(written(changed(*changes))), BASE, token)

    return make
