"""Whatever stands in a file, a command and the proxy answer with a message, and never with a traceback."""

import os
from pathlib import Path
from random import Random

import pytest
from mutated_records import RECORDS, make_records
from mutations import KINDS, Kind, make_files, mutated

_EXAMPLES = int(os.environ.get("XKSPROXY_MUTATIONS", "0"))
"""Examples of each kind, if the environment gives a number."""
_ALL = (*KINDS, *RECORDS)


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is to outlive a power failure."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


@pytest.fixture(autouse=True)
def few_roots(monkeypatch: pytest.MonkeyPatch, files: Path) -> None:
    """To read all roots that this machine trusts takes longer than everything else."""
    monkeypatch.setenv("SSL_CERT_FILE", str(files / "roots.pem"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one valid file of each kind."""
    return make_records(make_files(tmp_path_factory.mktemp("mutated")))


@pytest.mark.parametrize("kind", _ALL, ids=lambda kind: kind.name)
def test_the_file_that_is_mutated_is_valid(files: Path, kind: Kind) -> None:
    assert kind.read(files / kind.file) == ()


@pytest.mark.parametrize("kind", _ALL, ids=lambda kind: kind.name)
def test_a_mutated_file_is_read_or_refused_with_its_name(files: Path, kind: Kind) -> None:
    path = files / kind.file
    original = path.read_bytes()
    first = 0 if os.environ.get("CI") else int.from_bytes(os.urandom(4))
    try:
        for seed in range(first, first + (_EXAMPLES or kind.examples)):
            content = mutated(original, Random(seed))
            path.write_bytes(content)
            try:
                problems = kind.read(path)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {content!r}") from error
            assert all("Error" not in problem.partition(":")[0] for problem in problems), problems
            assert all(map(kind.is_named_in, problems)), problems
    finally:
        path.write_bytes(original)
