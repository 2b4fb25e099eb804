"""Rules for the keys of a key store, and how their settings are read from the file."""

import base64
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.config.errors import ConfigError
from xksproxy.config.key_checks import key_problems
from xksproxy.config.load import load_config
from xksproxy.config.model import MAXIMUM_ENCRYPTIONS, Key, KeyStore
from xksproxy.keystore.key_map import KeyMap
from xksproxy.spec.errors import KeyNotFoundException

_LEGAL_IDS = "expected 1 to 128 characters of A-Z a-z 0-9 - . _ (and not . or ..), got "
_TWICE = " not allowed with versions, which list the keys; remove one of the two"

# Few names, so that they are versions of each other now and then; the slash makes a label that no id can be.
_NAMES = st.builds(
    "".join, st.tuples(st.sampled_from(["a", "b", "p/a"]), st.sampled_from(["", ".v2"]), st.sampled_from(["", ".v3"]))
)
_IDS = _NAMES.filter(lambda name: "/" not in name)
_KEYS = (
    st.builds(Key, id=_IDS)
    | st.builds(Key, id=_IDS, label=_NAMES)
    | st.builds(Key, id=_IDS, versions=st.dictionaries(st.integers(1, 3), _NAMES, min_size=1, max_size=2))
    | st.builds(Key, id=st.sampled_from(["*", "a*", "?", "a.v?"]))
)


def _problems(*keys: Key, prefix: str = "/payments") -> list[str]:
    store = KeyStore(name="payments", uri_path_prefix=prefix, hsms=("hsm",), credentials="credentials", keys=keys)
    return list(key_problems("keys", store))


def _version_problem(index: int, label: str, number: int, stem: str, owner: str) -> str:
    return (
        f"keys[{index}]: the label {label} is version {number} of {stem} by the naming rule, and {owner}"
        f' exposes {stem}; if it is another key, list the versions: versions = {{ 1 = "{stem}" }}'
    )


@pytest.mark.parametrize("key_id", ["a/b", "k" * 129, "..", "ä", "a b", "a[bc]*", "."])
def test_an_id_that_no_key_can_have_is_refused(key_id: str) -> None:
    assert _problems(Key(id=key_id)) == [f"keys[0].id: {_LEGAL_IDS}{key_id}"]


@pytest.mark.parametrize("key_id", ["k" * 128, "*", "?" * 128, "a.b-c_d", "...", "A*"])
def test_legal_ids_and_patterns_are_accepted(key_id: str) -> None:
    assert _problems(Key(id=key_id)) == []


def test_an_id_that_makes_the_uri_too_long_is_refused() -> None:
    (problem,) = _problems(Key(id="k" * 128), prefix="/" + "p" * 117)

    assert problem.startswith("keys[0].id: the URI with prefix and id has more than ")


@pytest.mark.parametrize(
    ("key", "problems"),
    [
        pytest.param(
            Key(id="a*", label="x"),
            ["keys[1].label: not allowed with a pattern, which exposes each key under its own label"],
            id="pattern",
        ),
        pytest.param(
            Key(id="a*", versions={1: "x"}),
            ["keys[1].versions: not allowed with a pattern; its keys have the versions LABEL.v2, LABEL.v3 and so on"],
            id="versions of a pattern",
        ),
        pytest.param(Key(id="a", label="x", versions={1: "x"}), [f"keys[1].label:{_TWICE}"], id="both"),
        pytest.param(
            Key(id="a", versions={1: "x", 2: "y", 3: "x", 4: "y"}),
            ["keys[1].versions: x is the name of two versions", "keys[1].versions: y is the name of two versions"],
            id="two versions of one label",
        ),
    ],
)
def test_labels_and_versions_that_contradict_each_other_are_refused(key: Key, problems: list[str]) -> None:
    assert _problems(Key(id="first"), key) == problems


@pytest.mark.parametrize(("first", "refused"), [(0x00, False), (0xF7, False), (0xF8, True), (0xF9, True), (0xFF, True)])
def test_legacy_metadata_must_not_look_like_the_proxys_own(first: int, refused: bool) -> None:
    problem = "keys[1].legacy_metadata[1]: starts with a byte from F8 to FF; these bytes mark metadata of this proxy"

    problems = _problems(Key(id="a"), Key(id="b", legacy_metadata=(b"v0.0.1", bytes([first, 0, 0, 1]))))

    assert problems == ([problem] if refused else [])


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        pytest.param(
            (Key(id="foo"), Key(id="foo.v2")), _version_problem(1, "foo.v2", 2, "foo", "foo"), id="of a named key"
        ),
        pytest.param(
            (Key(id="foo.v2"), Key(id="foo")), _version_problem(0, "foo.v2", 2, "foo", "foo"), id="in either order"
        ),
        pytest.param(
            (Key(id="pay", label="prod/pay"), Key(id="old", label="prod/pay.v7")),
            _version_problem(1, "prod/pay.v7", 7, "prod/pay", "pay"),
            id="by their labels",
        ),
        pytest.param(
            (Key(id="foo"), Key(id="bar", versions={1: "bar", 2: "foo.v3"})),
            _version_problem(1, "foo.v3", 3, "foo", "foo"),
            id="of versions listed",
        ),
        pytest.param(
            (Key(id="f*"), Key(id="foo.v2")), _version_problem(1, "foo.v2", 2, "foo", "f*"), id="of a pattern's key"
        ),
        pytest.param(
            (Key(id="foo.v2", versions={1: "foo.v2"}), Key(id="foo")),
            _version_problem(0, "foo.v2", 2, "foo", "foo"),
            id="and listing itself does not help",
        ),
    ],
)
def test_a_label_that_is_by_its_name_a_version_of_another_key_is_refused(keys: tuple[Key, ...], problem: str) -> None:
    assert _problems(*keys) == [problem]


@given(st.lists(_KEYS, min_size=1, max_size=5, unique_by=lambda key: key.id))
@example([Key(id="*"), Key(id="a", label="p/a.v2")])
@example([Key(id="b", label="a"), Key(id="a", versions={1: "a"}), Key(id="*"), Key(id="a.v2.v3")])
def test_a_label_is_refused_exactly_if_another_exposed_key_has_it_as_a_version(
    keys: list[Key],
) -> None:
    exposed = KeyMap(keys)

    def is_version_of_another(label: str) -> bool:
        others = [key for key in exposed.named_keys() if not key.listed_versions]
        with suppress(KeyNotFoundException):
            others.append(exposed.resolve(label.rpartition(".v")[0]))
        return any(not other.listed_versions and (other.version_of(label) or 1) > 1 for other in others)

    claimed = [
        (index, label)
        for index, key in enumerate(keys)
        if not set(key.id) & set("*?")
        for label in key.versions.values() or (key.label or key.id,)
    ]
    alarms = [f"keys[{index}]: the label {label} is" for index, label in claimed if is_version_of_another(label)]

    given = [problem for problem in _problems(*keys) if "by the naming rule" in problem]

    assert [problem.partition(" version ")[0] for problem in given] == alarms


@pytest.fixture
def key_with(minimal: str, written: Callable[..., Path]) -> Callable[[str], Key]:
    """The second key of the configuration with one more line."""
    return lambda line: load_config(written(f"{minimal}{line}\n")).keystore[0].keys[1]


def _refusal(key_with: Callable[[str], Key], line: str) -> str:
    with pytest.raises(ConfigError) as caught:
        key_with(line)
    (problem,) = caught.value.problems
    return problem.partition("xksproxy.toml: keystore[0].keys[1].")[2]


def test_versions_are_read_by_their_numbers(key_with: Callable[[str], Key]) -> None:
    assert key_with('versions = { 1 = "a", 2 = "b" }').versions == {1: "a", 2: "b"}
    assert key_with('versions = { 65535 = "prod/a" }').versions == {65535: "prod/a"}
    assert key_with("versions = {}").versions == {}


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ('versions = { 0 = "a" }', "versions: Expected `int` >= 1 as a key"),
        ('versions = { -1 = "a" }', "versions: Expected `int` >= 1 as a key"),
        ('versions = { 65536 = "a" }', "versions: Expected `int` <= 65535 as a key"),
        ('versions = { one = "a" }', "versions: Expected `int`, got `str` as a key"),
        ('versions = { 01 = "a" }', "versions: Expected `int`, got `str` as a key"),
        ('versions = { "+1" = "a" }', "versions: Expected `int`, got `str` as a key"),
        ('versions = { "1.0" = "a" }', "versions: Expected `int`, got `str` as a key"),
        ('versions = { 1 = "" }', "versions[...]: Expected `str` of length >= 1"),
        ("versions = { 1 = 2 }", "versions[...]: Expected `str`, got `int`"),
        ('versions = ["a"]', "versions: Expected `table`, got `array`"),
    ],
)
def test_invalid_versions_are_refused_with_their_place(key_with: Callable[[str], Key], line: str, refusal: str) -> None:
    assert _refusal(key_with, line) == refusal


@pytest.mark.parametrize("data", [b"v0.0.1", b"\0", b"m" * 20])
def test_legacy_metadata_is_read_from_base64(key_with: Callable[[str], Key], data: bytes) -> None:
    line = f'legacy_metadata = ["{base64.b64encode(data).decode()}", "AA=="]'

    assert key_with(line).legacy_metadata == (data, b"\0")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ('["AA==", "djAuMC4"]', "legacy_metadata[1]: Invalid base64 encoded string"),
        ('["v0.0.1"]', "legacy_metadata[0]: Invalid base64 encoded string"),
        ('["djAu MC4x"]', "legacy_metadata[0]: Invalid base64 encoded string"),
        ('[""]', "legacy_metadata[0]: Expected `bytes` of length >= 1"),
        (f'["{"A" * 28}"]', "legacy_metadata[0]: Expected `bytes` of length <= 20"),
        ("[1]", "legacy_metadata[0]: Expected `bytes`, got `int`"),
        ('"AA=="', "legacy_metadata: Expected `array`, got `str`"),
    ],
)
def test_invalid_legacy_metadata_is_refused_with_its_place(
    key_with: Callable[[str], Key], line: str, refusal: str
) -> None:
    assert _refusal(key_with, f"legacy_metadata = {line}") == refusal


def test_the_maximum_number_of_encryptions_is_that_of_the_standard(key_with: Callable[[str], Key]) -> None:
    def read(value: Any) -> int:
        return key_with(f"maximum_encryptions = {value}").maximum_encryptions

    assert (read(1), read(2**32)) == (1, MAXIMUM_ENCRYPTIONS)
    assert key_with("").maximum_encryptions == MAXIMUM_ENCRYPTIONS
    assert _refusal(key_with, "maximum_encryptions = 0") == "maximum_encryptions: Expected `int` >= 1"
    assert _refusal(key_with, "maximum_encryptions = 4294967297") == (
        "maximum_encryptions: Expected `int` <= 4294967296"
    )


@pytest.mark.parametrize("setting", ["aad_encoding", "legacy_aad_encoding"])
def test_an_unknown_aad_encoding_is_refused_with_the_known_ones(key_with: Callable[[str], Key], setting: str) -> None:
    assert getattr(key_with(f'{setting} = "sha256"'), setting) == "sha256"
    assert _refusal(key_with, f'{setting} = "sha1"') == (
        f"{setting}: Invalid enum value 'sha1'; expected one of plain, sha256"
    )
