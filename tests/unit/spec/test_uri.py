"""The four API paths and their parts (R-URI-1, R-URI-2, R-URI-6, R-URI-11)."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.spec.errors import InvalidUriPathException
from xksproxy.spec.uri import ApiPath, Operation, compose_path, is_key_id, parse_path, prefix_problem

SEGMENTS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
PREFIXES = st.lists(SEGMENTS, max_size=4).map(lambda segments: "".join(f"/{segment}" for segment in segments))
KEY_IDS = st.text(string.ascii_letters + string.digits + "-._", min_size=1, max_size=128).filter(
    lambda text: text not in {".", ".."}
)
KEY_OPERATIONS = st.sampled_from([Operation.GET_KEY_METADATA, Operation.ENCRYPT, Operation.DECRYPT])
API_PATHS = st.builds(ApiPath, PREFIXES, KEY_OPERATIONS, KEY_IDS) | st.builds(
    ApiPath, PREFIXES, st.just(Operation.GET_HEALTH_STATUS), st.just("")
)


@pytest.mark.parametrize("prefix", ["", "/a", "/example/uri/path/prefix", "/A-Z_09/b"])
@pytest.mark.parametrize(
    ("rest", "operation", "key_id"),
    [
        ("/kms/xks/v1/health", Operation.GET_HEALTH_STATUS, ""),
        ("/kms/xks/v1/keys/foo/metadata", Operation.GET_KEY_METADATA, "foo"),
        ("/kms/xks/v1/keys/foo/encrypt", Operation.ENCRYPT, "foo"),
        ("/kms/xks/v1/keys/a.b-c_D9/decrypt", Operation.DECRYPT, "a.b-c_D9"),
    ],
)
def test_the_four_paths_are_served_with_and_without_prefix_r_uri_1(
    prefix: str, rest: str, operation: Operation, key_id: str
) -> None:
    assert parse_path(prefix + rest) == ApiPath(prefix, operation, key_id)
    assert compose_path(prefix, operation, key_id) == prefix + rest


@given(API_PATHS)
@example(ApiPath("/kms/xks/v1", Operation.GET_HEALTH_STATUS, ""))
@example(ApiPath("/kms/xks/v1/keys/foo/encrypt", Operation.DECRYPT, "bar"))
@example(ApiPath("/keys", Operation.ENCRYPT, "health"))
@example(ApiPath("", Operation.ENCRYPT, "..."))
@example(ApiPath("", Operation.ENCRYPT, "x" * 128))
def test_parsing_reverses_composing(path: ApiPath) -> None:
    assert parse_path(compose_path(path.prefix, path.operation, path.key_id)) == path


@given(st.text("/abz09-_.%?#kmsxv1 \n", max_size=60) | st.text(max_size=60))
@example("/kms/xks/v1/health")
@example("/a/kms/xks/v1/keys/b/encrypt")
def test_whatever_parses_composes_to_the_same_text(target: str) -> None:
    """So two targets never mean the same: what is signed is what is served."""
    try:
        path = parse_path(target)
    except InvalidUriPathException:
        return
    assert compose_path(path.prefix, path.operation, path.key_id) == target


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("", id="empty"),
        pytest.param("/", id="root"),
        pytest.param("kms/xks/v1/health", id="no slash in front"),
        pytest.param("/kms/xks/v1", id="base alone"),
        pytest.param("/kms/xks/v1/keys", id="no key"),
        pytest.param("/kms/xks/v1/keys/foo", id="no verb"),
        pytest.param("/kms/xks/v1/keys//encrypt", id="empty key id"),
        pytest.param("/kms/xks/v1/keys/foo/health", id="health of a key"),
        pytest.param("/kms/xks/v1/keys/foo/delete", id="other verb"),
        pytest.param("/kms/xks/v1/keys/foo/encrypt/more", id="one segment more"),
        pytest.param("/kms/xks/v1/keys/foo/bar/encrypt", id="key id of two segments"),
        pytest.param("/kms/xks/v2/health", id="other version"),
        pytest.param("/KMS/XKS/V1/health", id="base in upper case"),
        pytest.param("/kms/xks/v1/health/", id="slash after health"),
        pytest.param("//kms/xks/v1/health", id="empty first segment"),
        pytest.param("/kms/xks/v1//health", id="empty segment after the base"),
        pytest.param("/./kms/xks/v1/health", id="dot in the prefix"),
        pytest.param("/kms/xks/v1/keys/./encrypt", id="dot as key id"),
        pytest.param("/kms/xks/v1/keys/../encrypt", id="two dots as key id"),
        pytest.param("/a.b/kms/xks/v1/health", id="period in the prefix"),
        pytest.param("/a%2Fb/kms/xks/v1/health", id="percent-encoding in the prefix"),
        pytest.param("/kms/xks/v1/%68ealth", id="percent-encoding in health"),
        pytest.param("/kms/xks/v1/keys/%66oo/encrypt", id="percent-encoding in the key id"),
        pytest.param("/kms/xks/v1/health?a=b", id="query"),
        pytest.param("/kms/xks/v1/health#a", id="fragment"),
        pytest.param("/kms/xks/v1/health;a=b", id="path parameter"),
        pytest.param("/kms/xks/v1/health\n", id="newline at the end"),
        pytest.param("/a\n/kms/xks/v1/health", id="newline in the prefix"),
        pytest.param("/kms/xks/v1/health ", id="blank at the end"),
        pytest.param("\\kms\\xks\\v1\\health", id="backslashes"),
        pytest.param("/\u00e4/kms/xks/v1/health", id="umlaut in the prefix"),
        pytest.param("http://localhost/kms/xks/v1/health", id="absolute form"),
        pytest.param("localhost:443", id="authority form"),
    ],
)
def test_a_target_that_is_no_api_path_is_refused_r_uri_11(target: str) -> None:
    with pytest.raises(InvalidUriPathException):
        parse_path(target)


@given(path=API_PATHS, data=st.data())
def test_one_character_more_never_gives_the_same_operation_on_the_same_key(path: ApiPath, data: st.DataObject) -> None:
    target = compose_path(path.prefix, path.operation, path.key_id)
    at = data.draw(st.integers(0, len(target)))
    changed = target[:at] + data.draw(st.characters()) + target[at:]

    try:
        parsed = parse_path(changed)
    except InvalidUriPathException:
        return
    assert parsed != path


@given(st.text(max_size=50))
def test_the_refusal_does_not_repeat_the_target(text: str) -> None:
    with pytest.raises(InvalidUriPathException) as caught:
        parse_path(f"/MARK{text}?")

    assert "MARK" not in caught.value.message


@pytest.mark.parametrize("key_id", ["a b", "\u00e4", "a:b", "x" * 129, "a\nb", "a;b"])
def test_an_illegal_key_id_is_left_to_the_key_store_q_12(key_id: str) -> None:
    """Its answer is KeyNotFoundException, so the path must come through."""
    assert parse_path(f"/kms/xks/v1/keys/{key_id}/encrypt").key_id == key_id
    assert not is_key_id(key_id)


@pytest.mark.parametrize("key_id", ["", ".", "..", "x" * 129, "a\n", "\na", "a/b", "a%20b", "a b", "\u0661", "\uff41"])
def test_illegal_key_ids_r_uri_6(key_id: str) -> None:
    assert not is_key_id(key_id)


@given(PREFIXES)
@example("")
@example("/" + "a" * 116)
@example("/" + "a" * 57 + "/" + "b" * 58)
def test_legal_prefixes_have_no_problem_r_uri_2(prefix: str) -> None:
    assert prefix_problem(prefix) is None


def test_with_the_base_path_a_prefix_may_have_128_characters_r_uri_2() -> None:
    longest = "/" + "a" * 116
    assert len(longest + "/kms/xks/v1") == 128

    assert prefix_problem(longest) is None
    assert prefix_problem(longest + "a") == "with /kms/xks/v1 it may have at most 128 characters"


@pytest.mark.parametrize(
    "prefix",
    ["/", "a", "a/b", "/a/", "//a", "/a//b", "/a.b", "/..", "/a b", "/a%20", "/a?", "/a\n", "/\u00e4", "/a\\b"],
)
def test_a_prefix_of_another_form_is_a_problem_r_uri_2(prefix: str) -> None:
    assert "expected segments" in (prefix_problem(prefix) or "")
