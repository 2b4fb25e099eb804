"""Retired credentials are remembered, and nothing that becomes of the record makes one valid again."""

from pathlib import Path

import pytest

from xksproxy.state.retired_credentials import RetiredCredentials, mark_retired, unmark_retired


def test_a_credential_is_retired_in_its_key_store_until_the_mark_is_removed(tmp_path: Path) -> None:
    followed = RetiredCredentials(tmp_path)
    before = followed.revision

    mark_retired(tmp_path, "one", "A")
    mark_retired(tmp_path, "one", "A")
    followed.refresh()
    assert [followed.accepts(*name) for name in (("one", "A"), ("one", "B"), ("two", "A"))] == [False, True, True]
    assert followed.revision > before

    unmark_retired(tmp_path, "one", "A")
    unmark_retired(tmp_path, "one", "A")
    followed.refresh()
    assert followed.accepts("one", "A")


@pytest.mark.parametrize("lost", [True, False])
def test_a_record_that_cannot_be_read_makes_no_credential_valid(tmp_path: Path, lost: bool) -> None:
    mark_retired(tmp_path, "one", "A")
    running = RetiredCredentials(tmp_path)
    path = tmp_path / "retired-credentials.json"
    path.unlink() if lost else path.write_text("{")

    running.refresh()
    started = RetiredCredentials(tmp_path)

    assert (running.accepts("one", "A"), running.accepts("one", "B")) == (False, True)
    assert (started.accepts("one", "A"), started.accepts("one", "B")) == (False, False)
    assert str(path) in running.problem
    assert str(path) in started.problem
