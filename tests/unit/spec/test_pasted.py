"""What people paste is recognised."""

import pytest

from xksproxy.spec.pasted import pasted_prefix_problem, pasted_problem


@pytest.mark.parametrize("text", ["", "key-1", "xks.example.com", "a b", "*", "arn", "https", "/payments/eu"])
def test_what_may_be_meant_is_accepted(text: str) -> None:
    assert pasted_problem(text) is None
    assert pasted_prefix_problem(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("key-1 ", "a blank"),
        ("\u00a0key-1", "a blank"),
        ("key-1\n", "a blank"),
        ("http://xks.example.com", "it is a URL"),
        ("HTTPS://xks.example.com/kms/xks/v1", "it is a URL"),
        ("arn:aws:kms:eu-west-1:123456789012:key/1234abcd", "it is an ARN"),
        ("/x/kms/xks/v1/keys/key-1/encrypt", "it is a path of the API"),
    ],
)
def test_what_was_pasted_is_named(text: str, problem: str) -> None:
    assert problem in str(pasted_problem(text))


@pytest.mark.parametrize(
    ("prefix", "rest"), [("/x/kms/xks/v1", "/x"), ("/kms/xks/v1", ""), ("/x/y/kms/xks/v1/", "/x/y")]
)
def test_a_whole_path_in_the_place_of_the_prefix_is_answered_with_the_prefix(prefix: str, rest: str) -> None:
    assert str(pasted_prefix_problem(prefix)).endswith(f'write "{rest}"')
