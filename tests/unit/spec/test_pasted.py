"""What people paste is recognised, and the answer says what to write."""

import pytest

from xksproxy.spec.pasted import (
    pasted_host_problem,
    pasted_prefix_problem,
    pasted_problem,
    pasted_region_problem,
    wrapping_problem,
)


@pytest.mark.parametrize("text", ["", "key-1", "xks.example.com", "a b", "*", "arn", "https", "'", "keys"])
def test_what_may_be_meant_is_accepted(text: str) -> None:
    assert pasted_problem(text) is None
    assert wrapping_problem(text) is None


@pytest.mark.parametrize("prefix", ["", "/x", "/payments/eu", "/a b", "/x?y"])
def test_a_prefix_that_may_be_meant_is_accepted(prefix: str) -> None:
    assert pasted_prefix_problem(prefix) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("key-1 ", 'it has a blank at its beginning or end; write "key-1"'),
        ("\u00a0key-1", 'it has a blank at its beginning or end; write "key-1"'),
        ("key-1\n", 'it has a blank at its beginning or end; write "key-1"'),
        ("\u200bkey-1", 'it has the invisible character U+200B; write "key-1"'),
        ("key\u00ad-1", 'it has the invisible character U+00AD; write "key-1"'),
        ('"key-1"', 'it is in quotation marks; write "key-1"'),
        ("'key-1'", 'it is in quotation marks; write "key-1"'),
        ("\u201ckey-1\u201d", 'it is in quotation marks; write "key-1"'),
        (" 'key-1' ", 'it has a blank at its beginning or end; write "key-1"'),
        ("http://xks.example.com", "it is a URL; expected the id or name alone"),
        ("HTTPS://xks.example.com/kms/xks/v1/keys/key-1/encrypt", 'it is a URL; write "key-1"'),
        ("/x/kms/xks/v1/keys/key-1/encrypt", 'it is a path of the API; write "key-1"'),
        ("arn:aws:kms:eu-west-1:123456789012:key/1234abcd", "it is an ARN; expected the id or name alone"),
        ('"arn:aws:kms:eu-west-1:123456789012:key/1234abcd"', "it is an ARN; expected the id or name alone"),
        ("alias/key-1", "it is a name of AWS KMS; expected the id or name that this proxy knows"),
        ("key/1234abcd", "it is a name of AWS KMS; expected the id or name that this proxy knows"),
    ],
)
def test_what_was_pasted_is_named(text: str, problem: str) -> None:
    assert pasted_problem(text) == problem


@pytest.mark.parametrize(
    ("text", "prefix", "reason"),
    [
        ("/x/kms/xks/v1", "/x", "it ends in /kms/xks/v1"),
        ("/kms/xks/v1", "", "it ends in /kms/xks/v1"),
        ("kms/xks/v1", "", "it ends in /kms/xks/v1"),
        ("/x/y/kms/xks/v1/", "/x/y", "it ends in /kms/xks/v1"),
        ("/x/kms/xks/v1/keys/key-1/encrypt", "/x", "it is a path of the API"),
        ("https://xks.example.com/x/kms/xks/v1", "/x", "it is a URL"),
        ("https://xks.example.com:8443/x", "/x", "it is a URL"),
        ("https://xks.example.com", "", "it is a URL"),
        ("/x ", "/x", "it has a blank"),
        ('"/x"', "/x", "it is in quotation marks"),
        ("x/", "/x", "each segment follows one /"),
    ],
)
def test_the_prefix_in_what_was_pasted_is_the_answer(text: str, prefix: str, reason: str) -> None:
    problem = str(pasted_prefix_problem(text))

    assert problem.startswith(reason)
    assert problem.endswith(f'; write "{prefix}"')


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("localhost:8443", None),
        ("[::1]:8443", None),
        ("https://xks.example.com/x/kms/xks/v1", 'it is a URL; write "xks.example.com"'),
        ("http://localhost:8443", 'it is a URL; write "localhost:8443"'),
        ("localhost:8443/", 'it is more than a host; write "localhost:8443"'),
        ("user@localhost", 'it is more than a host; write "localhost"'),
        ("localhost\n", 'it has a blank at its beginning or end; write "localhost"'),
    ],
)
def test_the_host_in_what_was_pasted_is_the_answer(text: str, problem: str | None) -> None:
    assert pasted_host_problem(text) == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("eu-west-1", None),
        ("us-gov-west-1", None),
        ("test", None),
        ("EU-WEST-1", 'it has capital letters; write "eu-west-1"'),
        ("eu-west-1a", 'it is an Availability Zone; write "eu-west-1"'),
        ("'eu-west-1'", 'it is in quotation marks; write "eu-west-1"'),
        ("arn:aws:kms:eu-west-1:123456789012:key/1234abcd", 'it is an ARN; write "eu-west-1"'),
        ("Europe (Ireland)", None),
    ],
)
def test_the_region_in_what_was_pasted_is_the_answer(text: str, problem: str | None) -> None:
    assert pasted_region_problem(text) == problem
