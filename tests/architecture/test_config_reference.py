"""docs/configuration.md says what the typed model of the configuration says."""

import os
from pathlib import Path

from config_reference import render

_REFERENCE = Path(__file__).parents[2] / "docs" / "configuration.md"
_HOW = "run: XKSPROXY_WRITE_DOCS=1 .venv/bin/pytest tests/architecture/test_config_reference.py"


def test_the_configuration_reference_is_made_from_the_model() -> None:
    wanted = render()
    if os.environ.get("XKSPROXY_WRITE_DOCS"):
        _REFERENCE.write_text(wanted, "utf-8")

    # Not a comparison that pytest explains: what helps is how to write it anew.
    same = _REFERENCE.is_file() and _REFERENCE.read_text("utf-8") == wanted
    assert same, f"docs/configuration.md is not what xksproxy/config/model.py says; {_HOW}"
