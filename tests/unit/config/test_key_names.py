"""Names of keys and of their versions."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.key_names import compile_pattern, is_pattern, split_version_label, version_label


@given(st.text(min_size=1), st.integers(2, MAXIMUM_VERSION))
@example("line\nbreak\n", 2)
@example("a.v2", 3)
def test_the_label_of_a_later_version_tells_base_and_number(base: str, number: int) -> None:
    assert split_version_label(version_label(base, number)) == (base, number)


@given(st.text())
def test_the_label_of_version_1_is_the_base_itself(base: str) -> None:
    assert version_label(base, 1) == base


@given(st.text() | st.from_regex(r"[a.]{0,3}\.v[0-9٣]{0,6}\n?", fullmatch=True))
def test_a_label_is_split_only_into_what_makes_it_again(label: str) -> None:
    split = split_version_label(label)

    assert split is None or (split[0] != "" and version_label(*split) == label and split[1] > 1)


@pytest.mark.parametrize(
    ("label", "split"),
    [
        ("foo.v2", ("foo", 2)),
        ("foo.v65535", ("foo", 65535)),
        ("prod/foo.v10", ("prod/foo", 10)),
        ("foo.v2.v3", ("foo.v2", 3)),
        ("foo..v2", ("foo.", 2)),
        (".v2.v2", (".v2", 2)),
    ],
)
def test_a_label_of_a_later_version_is_split_at_its_last_number(label: str, split: tuple[str, int]) -> None:
    assert split_version_label(label) == split


@pytest.mark.parametrize(
    "label",
    [
        "",
        ".v2",
        "foo.v",
        "foo.v1",
        "foo.v02",
        "foo.v65536",
        "foo.v+2",
        "foo.v2 ",
        "foo.v2\n",
        "foo.V2",
        "foo.v٢",  # int() takes this digit
        "foo.v2a",
    ],
)
def test_any_other_label_is_not_that_of_a_later_version(label: str) -> None:
    assert split_version_label(label) is None


@pytest.mark.timeout(60)
def test_a_label_of_any_length_is_split_without_trying_every_way_to() -> None:
    assert split_version_label(".v2" * 100_000 + "!") is None
    assert split_version_label(".v2" * 100_000) == (".v2" * 99_999, 2)
    assert split_version_label("a.v" + "9" * 100_000) is None


@pytest.mark.parametrize(("key_id", "pattern"), [("a", False), ("a*", True), ("?", True), ("a.b-c_d", False)])
def test_a_wildcard_makes_a_pattern(key_id: str, pattern: bool) -> None:
    assert is_pattern(key_id) is pattern


@pytest.mark.parametrize(
    ("pattern", "label", "matches"),
    [("a*", "a.v2", True), ("a?", "a", False), ("a?", "ab\n", False), ("*", "", True), ("a*", "A", False)],
)
def test_a_pattern_matches_a_whole_label(pattern: str, label: str, matches: bool) -> None:
    assert (compile_pattern(pattern).fullmatch(label) is not None) is matches
