"""`xksproxy status` without a configuration that the proxy could use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("rest", ["[servr]\n", 'workers = "two"\n', "[[hsm]]\n"])
def test_it_needs_only_the_table_of_the_admin_listener(run: Callable[..., Any], tmp_path: Path, rest: str) -> None:
    config = tmp_path / "xksproxy.toml"
    config.write_text(f'{rest}\n[admin]\nlisten = "127.0.0.1:1"\n')

    done = run("status", "--config", config)

    assert done.code == 2
    assert "no proxy answers at http://127.0.0.1:1/status" in done.err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("[admin\n", "xksproxy.toml"), ("[admin]\nlisten = 5\n", "admin.listen"), ('[admin]\nlisten = "off"\n', "is off")],
)
def test_an_admin_listener_that_cannot_be_found_is_named(
    run: Callable[..., Any], tmp_path: Path, text: str, complaint: str
) -> None:
    config = tmp_path / "xksproxy.toml"
    config.write_text(text)

    done = run("status", "--config", config)

    assert done.code == 2
    assert complaint in done.err
    assert "Traceback" not in done.err
