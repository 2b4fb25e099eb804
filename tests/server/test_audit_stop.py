"""With ``[audit] stop_after_s``, a service that cannot write its audit log stops and says why."""

import re
import shutil
from pathlib import Path

import pytest
from server_support import OwnProxy, assert_serving, audit_lines
from support import PATIENCE_SECONDS, Proxy, eventually, lines_with, serve

pytestmark = pytest.mark.slow


def logged_to(text: str, log: Path, more: str) -> str:
    """The text of a configuration whose audit log goes to a file; ``more`` settings of it."""
    return re.sub(r'(?s)\[audit\]\nformat = "console"\n', f'[audit]\nfile = "{log}"\n{more}\n', text)


def reasons(proxy: Proxy) -> list[str]:
    """Why the service stopped, by its log."""
    return lines_with(proxy.log, "the service stops because it cannot write its audit log")


@pytest.mark.parametrize("when_full", ["drop", "refuse"])
def test_a_service_whose_audit_log_is_full_from_the_start_ends_with_code_1_and_the_reason(
    own_proxy: OwnProxy, when_full: str
) -> None:
    more = f'stop_after_s = 2\nwhen_full = "{when_full}"'
    proxy = own_proxy.start(edit=lambda text: logged_to(text, Path("/dev/full"), more), serving=False)

    assert proxy.process.wait(PATIENCE_SECONDS) == 1
    assert "No space left on device" in str(reasons(proxy))


def test_a_service_whose_audit_directory_is_removed_ends_and_the_next_one_records_why(
    own_proxy: OwnProxy, tmp_path: Path
) -> None:
    log = tmp_path / "directory" / "audit.log"
    log.parent.mkdir()
    proxy = own_proxy.start(edit=lambda text: logged_to(text, log, "stop_after_s = 2"))
    eventually(lambda: audit_lines(log, '"message":"started"'))
    shutil.rmtree(log.parent)
    assert_serving(proxy, 1)  # a line that cannot be written

    assert proxy.process.wait(PATIENCE_SECONDS) == 1
    assert "No such file or directory" in str(reasons(proxy))

    log.parent.mkdir()
    own_proxy.adopt(serve(proxy.environment.config, proxy.log))
    (stopping,) = eventually(lambda: audit_lines(log, '"message":"stopping"'))
    assert "No such file or directory" in stopping["reason"]
