"""docs/claims.md names promises that stand in the documents, and tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_DOCUMENTS = ["security.md", "operations.md", "credentials.md", "key-versions.md", "authorization.md", "state.md"]
_ROW = re.compile(r"\| (?P<promise>[^|]+) \| (?P<tests>[^|]+) \|")


def _sections() -> dict[str, str]:
    """The text about each document, by its name."""
    parts = re.split(r"(?m)^## \[([\w-]+\.md)\]\(\1\)$", (_DOCS / "claims.md").read_text("utf-8"))
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _claims() -> list[tuple[str, str, tuple[str, ...]]]:
    """Document, promise and tests of each row."""
    return [
        (document, row["promise"], tuple(re.findall(r"`([^`]+)`", row["tests"])))
        for document, text in _sections().items()
        for row in map(_ROW.fullmatch, text.strip().splitlines()[2:])
        if row is not None
    ]


def _words(text: str) -> str:
    return " ".join(text.split())


@cache
def _functions(file: str) -> frozenset[str]:
    """The test functions of a file; none if there is no such file."""
    path = _ROOT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_each_document_has_its_table_and_each_line_of_a_table_is_a_row() -> None:
    sections = _sections()

    assert [*sections] == _DOCUMENTS
    for document, text in sections.items():
        lines = text.strip().splitlines()
        assert lines[:2] == ["| promise | tests |", "|---|---|"], document
        assert [line for line in lines[2:] if _ROW.fullmatch(line) is None] == []
        assert lines[2:], document


@pytest.mark.parametrize("document", _DOCUMENTS)
def test_each_promise_stands_in_its_document_word_for_word(document: str) -> None:
    text = _words((_DOCS / document).read_text("utf-8"))

    promises = [promise for named, promise, _ in _claims() if named == document]
    assert [promise for promise in promises if _words(promise) not in text] == []
    assert len(promises) == len(set(promises))


def test_each_promise_has_tests_that_exist() -> None:
    for _, promise, tests in _claims():
        assert tests, promise
        for test in tests:
            file, _, name = test.partition("::")
            assert name.startswith("test_"), test
            assert name in _functions(file), test
