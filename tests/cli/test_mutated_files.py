"""Whatever stands in a file that a person names, a command answers with a message, and never with a traceback."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import KINDS, Kind, make_files, mutated

_EXAMPLES = int(os.environ.get("XKSPROXY_MUTATIONS", "300"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one valid file of each kind."""
    return make_files(tmp_path_factory.mktemp("mutated"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_file_that_is_mutated_is_valid(files: Path, kind: Kind) -> None:
    assert kind.read(files / kind.file) == ()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(
    max_examples=_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_with_its_name(files: Path, kind: Kind, data: st.DataObject) -> None:
    path = files / kind.file
    original = path.read_bytes()
    path.write_bytes(data.draw(mutated(original)))
    try:
        problems = kind.read(path)
    finally:
        path.write_bytes(original)

    assert all(problem and "Error" not in problem.partition(":")[0] for problem in problems)
