"""The external key ids that a key store exposes, and the key on the token of each id."""

import re
from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from xksproxy.aead.aad import AadEncoding
from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.model import Key
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.spec.errors import KeyNotFoundException

_VERSION = re.compile(r"\.v[0-9]+\Z")
"""The end of the label of a later version, which is not exposed as a key of its own."""

_KEY_IDS = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True).filter(
    lambda text: text not in (".", "..") and not _VERSION.search(text)
)
# Few letters, so that patterns match sometimes.
_SHORT_IDS = st.text("aAb.-_", min_size=1, max_size=6).filter(lambda text: text not in (".", ".."))
_PATTERNS = st.text("aAb.-_*?", min_size=1, max_size=5).filter(lambda text: "*" in text or "?" in text)

# Few parts, so that labels are sometimes versions of each other.
_LABELS = st.builds(
    "".join, st.tuples(st.sampled_from(["a", "b", "p/a"]), st.sampled_from(["", ".v2"]), st.sampled_from(["", ".v3"]))
)
_LABEL_IDS = _LABELS.filter(lambda label: "/" not in label)
_VERSIONS = st.dictionaries(st.integers(1, 3), _LABELS, min_size=1, max_size=2).filter(
    lambda versions: len({*versions.values()}) == len(versions)  # otherwise it is refused
)
_KEYS = (
    st.builds(Key, id=_LABEL_IDS)
    | st.builds(Key, id=_LABEL_IDS, label=_LABELS)
    | st.builds(Key, id=_LABEL_IDS, versions=_VERSIONS)
    | st.builds(Key, id=st.sampled_from(["*", "a*", "?", "a.v?", "*.v3"]))
)


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


def test_a_refusal_does_not_repeat_the_id_nor_name_any_other() -> None:
    with pytest.raises(KeyNotFoundException) as caught:
        KeyMap([Key(id="visible"), Key(id="pattern-*")]).resolve("hidden")

    assert not any(word in str(caught.value) for word in ("hidden", "visible", "pattern"))


@pytest.mark.timeout(60)
def test_a_pattern_exposes_any_number_of_ids_each_as_itself() -> None:
    keys = KeyMap([Key(id="a*")])
    ids = [f"a{number}" for number in range(2_000)]

    for key_id in (*ids, *ids):
        assert keys.resolve(key_id).label == key_id


def test_an_id_that_almost_matches_a_pattern_of_many_stars_is_refused_without_trying_every_way_to_fit() -> None:
    # A caller that may create KMS keys chooses the id, and the event loop of a worker waits for the result.
    assert _not_exposed(KeyMap([Key(id="*-*-*-*-*-*-*-*-prod")]), "-" * 128)


def test_named_keys_come_in_the_order_of_the_configuration_without_the_patterns() -> None:
    keys = KeyMap([Key(id="b"), Key(id="*"), Key(id="a", label="x"), Key(id="c?")])

    assert [key.id for key in keys.named_keys()] == ["b", "a"]


@given(_KEY_IDS)
def test_a_pattern_for_all_exposes_every_legal_id_under_itself(key_id: str) -> None:
    assert KeyMap([Key(id="*")]).resolve(key_id) == ExternalKey(key_id, key_id, disabled=False)


@given(st.text(max_size=140))
def test_only_legal_ids_are_ever_found(key_id: str) -> None:
    assume(not _VERSION.search(key_id))
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


def test_versions_have_labels_by_the_naming_rule() -> None:
    key = KeyMap([Key(id="pay", label="prod/pay")]).resolve("pay")

    assert [key.label_of(version) for version in (1, 2, 10)] == ["prod/pay", "prod/pay.v2", "prod/pay.v10"]
    assert [key.version_of(f"prod/pay{end}") for end in ("", ".v2", ".v10")] == [1, 2, 10]
    assert [key.version_of(label) for label in ("pay", "pay.v2", "prod/pay.v1", "prod/pay.v2.v2", "x.v2")] == [None] * 5
    assert (key.first_version, dict(key.listed_versions)) == (1, {})


def test_versions_have_only_the_labels_that_the_configuration_lists() -> None:
    key = KeyMap([Key(id="pay", versions={2: "old", 5: "pay.v9"})]).resolve("pay")

    assert [key.label_of(version) for version in (1, 2, 5, 9)] == [None, "old", "pay.v9", None]
    assert [key.version_of(label) for label in ("pay", "old", "old.v2", "pay.v9")] == [None, 2, None, 5]
    assert key.first_version == 2


@pytest.mark.parametrize("version", [-1, 0, MAXIMUM_VERSION + 1])
def test_a_number_that_ciphertext_metadata_cannot_carry_is_no_version(version: int) -> None:
    assert KeyMap([Key(id="a")]).resolve("a").label_of(version) is None


@given(_LABEL_IDS, st.integers(1, MAXIMUM_VERSION))
def test_a_version_and_its_label_name_each_other(label: str, version: int) -> None:
    key = KeyMap([Key(id="*")])._by_pattern(label)

    assert key is not None
    assert key.version_of(key.label_of(version) or "") == version


def test_a_key_of_a_pattern_has_the_settings_of_its_pattern() -> None:
    pattern = Key(
        id="a*", aad_encoding="sha256", legacy_metadata=(b"v0.0.1",), maximum_encryptions=10, hedge_after_ms=40
    )

    key = KeyMap([pattern], fleet_size=3).resolve("ab")

    assert (key.aad_encoding, key.legacy_aad_encoding) == (AadEncoding.SHA256, AadEncoding.SHA256)
    assert (key.legacy_metadata, key.hedge_after) == (frozenset([b"v0.0.1"]), 0.04)
    assert key.maximum_encryptions == 3


def test_ciphertexts_of_another_proxy_can_have_an_encoding_of_their_own() -> None:
    key = KeyMap([Key(id="a", aad_encoding="plain", legacy_aad_encoding="sha256")]).resolve("a")

    assert (key.aad_encoding, key.legacy_aad_encoding) == (AadEncoding.PLAIN, AadEncoding.SHA256)


@pytest.mark.parametrize(("maximum", "machines", "share"), [(100, 1, 100), (100, 3, 33), (2, 3, 1), (2**32, 2, 2**31)])
def test_machines_share_the_encryptions_of_a_key(maximum: int, machines: int, share: int) -> None:
    assert KeyMap([Key(id="a", maximum_encryptions=maximum)], machines).resolve("a").maximum_encryptions == share


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(Key(id="foo"), id="named"),
        pytest.param(Key(id="public", label="foo"), id="under another id"),
        pytest.param(Key(id="f*"), id="by another pattern"),
        pytest.param(Key(id="public", versions={1: "bar", 7: "foo.v2", 8: "foo.v65535"}), id="listed"),
    ],
)
def test_a_version_of_an_exposed_key_is_no_key_of_its_own(key: Key) -> None:
    keys = KeyMap([key, Key(id="*")])

    for label in ("foo.v2", "foo.v65535"):
        holder = keys.key_of_label(label)
        assert keys.has_label(label) == (holder is not None)
        assert holder is not None
        assert holder.version_of(label) in (2, 7, 8, 65535)
        assert _not_exposed(keys, label)


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param([Key(id="foo.v*")], id="the other is not exposed"),
        pytest.param([Key(id="*"), Key(id="foo", label="bar")], id="the other has another label"),
        pytest.param([Key(id="*"), Key(id="foo", versions={1: "foo", 2: "foo-2"})], id="the other lists its versions"),
    ],
)
def test_a_label_like_that_of_a_version_is_a_key_of_its_own_where(keys: list[Key]) -> None:
    exposed = KeyMap(keys)

    assert exposed.resolve("foo.v2").label == "foo.v2"
    assert exposed.resolve("foo.v2").label_of(2) == "foo.v2.v2"
    assert exposed.key_of_label("foo.v2") == exposed.resolve("foo.v2")


@pytest.mark.parametrize("label", ["foo.v1", "foo.v02", "foo.v65536", "foo.v", "foo.vv2"])
def test_a_label_that_the_naming_rule_never_gives_is_a_key_of_its_own(label: str) -> None:
    keys = KeyMap([Key(id="foo"), Key(id="*")])

    assert keys.resolve(label).label == label
    assert keys.key_of_label(label) == keys.resolve(label)


def test_a_label_that_the_key_store_does_not_expose_belongs_to_no_key() -> None:
    keys = KeyMap([Key(id="pay", label="prod/pay"), Key(id="a*")])

    assert [keys.key_of_label(label) for label in ("pay", "pay.v2", "b", "b.v2", "prod/pay.v1", "a/b", "")] == [
        None
    ] * 7


@pytest.mark.parametrize("order", [1, -1])
def test_a_label_of_several_keys_belongs_to_the_key_with_this_id(order: int) -> None:
    named = [Key(id="alias", label="a"), Key(id="a"), Key(id="b", versions={1: "b", 2: "a"})][::order]

    holder = KeyMap(named).key_of_label("a")

    assert holder is not None
    assert holder.id == "a"


def test_a_label_of_several_keys_with_other_ids_belongs_to_the_first() -> None:
    holder = KeyMap([Key(id="one", label="a"), Key(id="two", label="a"), Key(id="a", label="b")]).key_of_label("a")

    assert holder is not None
    assert holder.id == "one"


@pytest.mark.timeout(60)
def test_labels_of_versions_of_versions_are_resolved_without_deep_recursion() -> None:
    keys = KeyMap([Key(id="*"), Key(id="*-*-*-*"), Key(id="named", label="x" + ".v2" * 50_000)])

    for length in range(42):
        key_id = "x" + ".v2" * length
        assert _not_exposed(keys, key_id) is (length % 2 == 1)
    assert keys.key_of_label("x" + ".v2" * 100_000) is None
    assert keys.key_of_label(".v2" * 100_000) is None
    named = keys.key_of_label("x" + ".v2" * 50_001)
    assert named is not None
    assert named.id == "named"


@given(st.lists(_KEYS, min_size=1, max_size=5, unique_by=lambda key: key.id), st.lists(_LABELS, max_size=8))
@example([Key(id="a", versions={1: "a", 2: "b"}), Key(id="b")], ["b"])
@example([Key(id="b"), Key(id="a", versions={1: "a", 2: "b"})], ["b"])
def test_each_label_of_a_token_belongs_to_one_key_at_most(configured: list[Key], token: list[str]) -> None:
    keys = KeyMap(configured)
    named = {key.id for key in keys.named_keys()}

    for label in token:
        holder = keys.key_of_label(label)
        assert keys.has_label(label) == (holder is not None)
        if holder is not None:
            assert holder.version_of(label) is not None
            assert keys.resolve(holder.id) == holder
        if _not_exposed(keys, label):
            continue
        key = keys.resolve(label)
        if label not in named:
            assert holder == key
        if key.label_of(1) == label:
            assert holder is not None
            assert holder.version_of(label) == 1
