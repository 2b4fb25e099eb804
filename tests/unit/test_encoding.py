"""JSON of whatever Python holds as text."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.encoding import encode_json

_ANY_TEXT = st.text(st.characters(exclude_categories=[]))


class _Record(msgspec.Struct):
    names: tuple[str, ...]


@given(st.recursive(_ANY_TEXT, lambda inner: st.lists(inner) | st.dictionaries(_ANY_TEXT, inner), max_leaves=5))
def test_every_text_becomes_json(content: Any) -> None:
    msgspec.json.decode(encode_json(content))


@given(st.dictionaries(st.text(), st.lists(st.text() | st.integers(0, 9))))
def test_unicode_stays_as_it_is(content: Any) -> None:
    assert json.loads(encode_json(content)) == content


@pytest.mark.parametrize("content", [_Record(("a\udcff",)), {"names": ["a\udcff"]}])
def test_bytes_that_were_not_text_are_told(content: Any) -> None:
    assert json.loads(encode_json(content)) == {"names": ["a\\udcff"]}
