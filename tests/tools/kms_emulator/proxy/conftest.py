"""Fixtures of the tests of calls to a proxy."""

from pathlib import Path

import pytest
from tls_server_support import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority, and what it signs."""
    return Certificates(tmp_path)
