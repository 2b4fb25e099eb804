"""Which external key ids a key store exposes, and what each of them means on the token."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.model import Key
from xksproxy.keystore.keymap import ExternalKey, KeyMap
from xksproxy.spec.errors import KeyNotFoundException

_KEY_IDS = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True).filter(lambda text: text not in (".", ".."))
# Few letters, so that patterns match now and then.
_SHORT_IDS = st.text("aAb.-_", min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
_PATTERNS = st.text("aAb.-_*?", min_size=1, max_size=5).filter(lambda text: "*" in text or "?" in text)


def _not_exposed(keys: KeyMap, key_id: str) -> bool:
    try:
        keys.resolve(key_id)
    except KeyNotFoundException:
        return True
    return False


def test_a_named_key_has_its_id_as_label_unless_another_is_given() -> None:
    keys = KeyMap([Key(id="a"), Key(id="b", label="prod/b"), Key(id="c", disabled=True)])

    assert keys.resolve("a") == ExternalKey("a", "a", disabled=False)
    assert keys.resolve("b") == ExternalKey("b", "prod/b", disabled=False)
    assert keys.resolve("c") == ExternalKey("c", "c", disabled=True)


def test_what_is_not_exposed_is_not_found() -> None:
    # R-URI-7
    keys = KeyMap([Key(id="a"), Key(id="b*")])

    for key_id in ("A", "aa", "", "ab", "c", "*", "b*", "?"):
        with pytest.raises(KeyNotFoundException):
            keys.resolve(key_id)


def test_a_refusal_does_not_repeat_the_id_nor_name_any_other() -> None:
    with pytest.raises(KeyNotFoundException) as caught:
        KeyMap([Key(id="visible"), Key(id="pattern-*")]).resolve("hidden")

    assert not any(word in str(caught.value) for word in ("hidden", "visible", "pattern"))


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ("a", "a.b-c_d", "k" * 128), ()),
        ("a*", ("a", "ab", "a.b"), ("ba", "A", "b")),
        ("*a", ("a", "ba", "aaa"), ("ab", "A")),
        ("a*b*c", ("abc", "axxbxxc", "ab.c"), ("ac", "acb", "abcd")),
        ("a?", ("ab", "a.", "a-"), ("a", "abc", "ba")),
        ("??", ("ab", "..a"[1:]), ("a", "abc")),
        ("a.b*", ("a.b", "a.bc"), ("axb", "axbc")),
        ("a?*", ("ab", "abc"), ("a",)),
    ],
)
def test_a_pattern_exposes_every_label_that_it_matches_whole(
    pattern: str, matching: tuple[str, ...], others: tuple[str, ...]
) -> None:
    keys = KeyMap([Key(id=pattern)])

    for key_id in matching:
        assert keys.resolve(key_id) == ExternalKey(key_id, key_id, disabled=False)
    for key_id in others:
        assert _not_exposed(keys, key_id), key_id


@pytest.mark.timeout(5)
def test_an_id_that_almost_matches_a_pattern_of_many_stars_is_refused_without_trying_every_way_to_fit() -> None:
    # Whoever may create KMS keys chooses the id, and the event loop of a worker waits for the answer.
    assert _not_exposed(KeyMap([Key(id="*-*-*-*-*-*-*-*-prod")]), "-" * 128)


@pytest.mark.parametrize("order", [1, -1])
def test_among_patterns_that_match_one_that_disables_wins_wherever_it_stands(order: int) -> None:
    keys = KeyMap([Key(id="a*", disabled=True), Key(id="*"), Key(id="?b")][::order])

    assert keys.resolve("ab").disabled
    assert keys.resolve("a").disabled
    assert not keys.resolve("bb").disabled


@pytest.mark.parametrize("order", [1, -1])
def test_a_named_key_goes_before_patterns_wherever_it_stands(order: int) -> None:
    keys = KeyMap([Key(id="*", disabled=True), Key(id="a", label="prod/a"), Key(id="b")][::order])

    assert keys.resolve("a") == ExternalKey("a", "prod/a", disabled=False)
    assert keys.resolve("b") == ExternalKey("b", "b", disabled=False)
    assert keys.resolve("c").disabled


def test_a_named_key_that_is_disabled_is_not_enabled_by_a_pattern() -> None:
    assert KeyMap([Key(id="a", disabled=True), Key(id="*")]).resolve("a").disabled


def test_a_key_exposed_under_another_id_is_not_reachable_under_its_label() -> None:
    keys = KeyMap([Key(id="public", label="secret-label"), Key(id="*")])

    assert keys.resolve("public").label == "secret-label"
    assert _not_exposed(keys, "secret-label")
    assert keys.resolve("secret-label-2").label == "secret-label-2"


def test_a_label_can_be_an_id_as_well_where_both_are_named() -> None:
    keys = KeyMap([Key(id="a", label="b"), Key(id="b", label="a"), Key(id="*")])

    assert (keys.resolve("a").label, keys.resolve("b").label) == ("b", "a")


def test_a_key_named_under_its_label_stays_so_beside_another_name() -> None:
    keys = KeyMap([Key(id="a"), Key(id="alias", label="a", disabled=True)])

    assert keys.resolve("a") == ExternalKey("a", "a", disabled=False)
    assert keys.resolve("alias") == ExternalKey("alias", "a", disabled=True)


@pytest.mark.parametrize(
    "key_id",
    [
        "",
        ".",
        "..",
        "k" * 129,
        " ",
        "a ",
        " a",
        "a b",
        "ä",
        "\N{CYRILLIC SMALL LETTER A}",
        "a\n",
        "\na",
        "a\r",
        "a\0",
        "a/b",
        "a%",
        "a*",
        "?",
    ],
)
def test_an_id_that_no_key_can_have_is_not_found_even_by_a_pattern_for_all(key_id: str) -> None:
    #
    with pytest.raises(KeyNotFoundException):
        KeyMap([Key(id="*"), Key(id="?"), Key(id="a*")]).resolve(key_id)


def test_named_keys_come_in_the_order_of_the_configuration_without_the_patterns() -> None:
    keys = KeyMap([Key(id="b"), Key(id="*"), Key(id="a", label="x"), Key(id="c?")])

    assert [key.id for key in keys.named_keys()] == ["b", "a"]


def test_a_key_map_is_built_from_any_iterable() -> None:
    keys = KeyMap(iter([Key(id="a"), Key(id="b*")]))

    assert (keys.resolve("a").id, keys.resolve("bc").id) == ("a", "bc")


@given(_KEY_IDS)
def test_a_pattern_for_all_exposes_every_legal_id_under_itself(key_id: str) -> None:
    assert KeyMap([Key(id="*")]).resolve(key_id) == ExternalKey(key_id, key_id, disabled=False)


@given(st.text(max_size=140))
def test_only_legal_ids_are_ever_found(key_id: str) -> None:
    legal = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._")
    is_legal = 0 < len(key_id) <= 128 and set(key_id) <= legal and key_id not in (".", "..")

    assert _not_exposed(KeyMap([Key(id="*")]), key_id) is not is_legal


@given(_SHORT_IDS, st.lists(st.tuples(_PATTERNS, st.booleans()), max_size=4, unique_by=lambda item: item[0]))
def test_patterns_match_as_in_a_shell(key_id: str, patterns: list[tuple[str, bool]]) -> None:
    keys = KeyMap([Key(id=pattern, disabled=disabled) for pattern, disabled in patterns])
    matching = [disabled for pattern, disabled in patterns if fnmatchcase(key_id, pattern)]

    if matching:
        assert keys.resolve(key_id) == ExternalKey(key_id, key_id, disabled=any(matching))
    else:
        assert _not_exposed(keys, key_id)


@given(
    st.dictionaries(_SHORT_IDS, st.tuples(_SHORT_IDS, st.booleans()), max_size=5),
    st.lists(_PATTERNS, max_size=3, unique=True),
    _SHORT_IDS,
)
def test_an_id_means_one_label_and_a_renamed_label_is_reached_by_its_ids_alone(
    named: dict[str, tuple[str, bool]], patterns: list[str], other: str
) -> None:
    keys = KeyMap(
        [Key(id=pattern) for pattern in patterns]
        + [Key(id=key_id, label=label, disabled=disabled) for key_id, (label, disabled) in named.items()]
    )

    for key_id, (label, disabled) in named.items():
        assert keys.resolve(key_id) == ExternalKey(key_id, label, disabled)
    renamed = {label for key_id, (label, _) in named.items() if label != key_id}
    for key_id in {*renamed, other} - set(named):
        reachable = key_id not in renamed and any(fnmatchcase(key_id, pattern) for pattern in patterns)
        assert _not_exposed(keys, key_id) is not reachable
