"""Fixtures of the tests of deploy/."""

from pathlib import Path

import pytest
from deploy_support import TOP, pip


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(TOP))
    (made,) = directory.glob("xksproxy-*.whl")
    return made
