"""What the log tells of ``requestMetadata``: all of it, within bounds (R-LOG-1, R-REQ-7)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.spec.messages import received_metadata

LENGTHS = st.sampled_from([0, 1, 63, 64, 65, 2047, 2048, 2049, 5000])
TEXTS = st.builds(lambda character, length: character * length, st.sampled_from("a\u20ac\U0001f600"), LENGTHS)
NAMES = st.builds(lambda text, number: f"{number}{text}"[:80], TEXTS, st.integers(0, 99))
VALUES: st.SearchStrategy[Any] = TEXTS | st.text(max_size=20) | st.sampled_from([None, True, 1, [1, "a"], {"b": None}])


def told(metadata: dict[str, Any]) -> dict[str, str]:
    body = {"requestMetadata": metadata, "plaintext": "QUJD"}
    return received_metadata(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


@given(st.dictionaries(NAMES, VALUES, max_size=40))
def test_it_is_32_members_of_bounded_names_and_values_and_what_is_no_string_is_its_json(
    metadata: dict[str, Any],
) -> None:
    metadata = json.loads(json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
    expected = {
        name[:64]: (value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))[:2048]
        for name, value in list(metadata.items())[:32]
    }

    assert list(told(metadata).items()) == list(expected.items())


@pytest.mark.parametrize("count", [31, 32, 33])
def test_the_first_32_members_are_told(count: int) -> None:
    metadata = {f"name{number}": "value" for number in range(count)}

    assert list(told(metadata)) == list(metadata)[:32]


def test_one_member_that_is_too_long_or_no_string_leaves_the_others_as_they_are() -> None:
    metadata = {"kmsOperation": "Encrypt", "long": "v" * 2049, "n" * 65: "v", "number": 1, "last": "v"}

    assert told(metadata) == {
        "kmsOperation": "Encrypt",
        "long": "v" * 2048,
        "n" * 64: "v",
        "number": "1",
        "last": "v",
    }


@pytest.mark.parametrize("character", ["a", "\u20ac", "\U0001f600"])
@pytest.mark.parametrize("beyond", [0, 1])
def test_bounds_are_in_characters(character: str, beyond: int) -> None:
    assert told({"name": character * (2048 + beyond)}) == {"name": character * 2048}
    assert told({character * (64 + beyond): "value"}) == {character * 64: "value"}
