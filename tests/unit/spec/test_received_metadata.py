"""What the log tells of ``requestMetadata``: what the API names, and the rest within bounds (R-LOG-1, R-REQ-7)."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.spec.messages import ReceivedMetadata, received_metadata

KNOWN = (
    "awsPrincipalArn",
    "kmsKeyArn",
    "kmsOperation",
    "kmsRequestId",
    "kmsViaService",
    "awsSourceVpc",
    "awsSourceVpce",
)
LENGTHS = st.sampled_from([0, 1, 63, 64, 65, 2047, 2048, 2049, 5000])
TEXTS = st.builds(lambda character, length: character * length, st.sampled_from("a\u20ac\U0001f600"), LENGTHS)
NAMES = st.builds(lambda text, number: f"{number}{text}"[:80], TEXTS, st.integers(0, 99))
VALUES: st.SearchStrategy[Any] = TEXTS | st.text(max_size=20) | st.sampled_from([None, True, 1, [1, "a"], {"b": None}])


def received(metadata: dict[str, Any]) -> ReceivedMetadata:
    body = {"requestMetadata": metadata, "plaintext": "QUJD"}
    return received_metadata(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def told(metadata: dict[str, Any]) -> dict[str, str]:
    return dict(received(metadata).members)


@given(st.dictionaries(NAMES | st.sampled_from(KNOWN), VALUES, max_size=45))
def test_it_is_32_members_of_bounded_names_and_values_and_what_is_no_string_is_its_json(
    metadata: dict[str, Any],
) -> None:
    metadata = json.loads(json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace"))
    texts = {
        name: (value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))[:2048]
        for name, value in metadata.items()
    }
    expected: dict[str, str] = {name: texts.pop(name) for name in KNOWN if name in texts}
    for name, value in texts.items():
        if len(expected) < 32:
            expected.setdefault(name[:64], value)

    found = received(metadata)

    assert found.members == expected
    assert found.left_out == len(metadata) - len(expected)


@pytest.mark.parametrize("count", [31, 32, 33])
def test_the_first_32_members_are_told_and_the_others_counted(count: int) -> None:
    metadata = {f"name{number}": "value" for number in range(count)}

    assert list(told(metadata)) == list(metadata)[:32]
    assert received(metadata).left_out == max(0, count - 32)


@pytest.mark.parametrize("count", [25, 26, 32, 1000])
def test_unknown_members_never_displace_those_that_the_api_names_r_log_1(count: int) -> None:
    known = {name: f"the {name}" for name in KNOWN}
    metadata = {f"x{number}": "x" for number in range(count)} | known

    found = received(metadata)

    assert {name: found.members[name] for name in KNOWN} == known
    assert len(found.members) == 32
    assert found.left_out == count - 25


def test_of_two_names_with_the_same_first_64_characters_one_is_told_and_the_other_counted() -> None:
    assert received({"n" * 64 + "a": "1", "n" * 64 + "b": "2"}) == ReceivedMetadata({"n" * 64: "1"}, 1)


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
