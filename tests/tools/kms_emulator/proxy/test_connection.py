"""Rules that say where to connect instead, as they are written on a command line."""

import pytest
from xksproxy_tools.kms_emulator.proxy.connection import parse_connect_rule, resolve


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("xks.example.com:443=127.0.0.1:8443", (("xks.example.com", 443), ("127.0.0.1", 8443))),
        ("XKS.Example.com:443=localhost:8443", (("xks.example.com", 443), ("localhost", 8443))),
        ("xks.example.com:443=[::1]:8443", (("xks.example.com", 443), ("::1", 8443))),
    ],
)
def test_a_rule_is_read(text: str, rule: object) -> None:
    assert parse_connect_rule(text) == rule


@pytest.mark.parametrize(
    "text",
    ["", "xks.example.com", "a:443", "a:443=", "a=b:1", "a:443=b", "a:443=:1", "a:0=b:1", "a:443=b:65536", "a:٣=b:1"],
)
def test_what_is_no_rule_is_refused_with_the_form_of_one(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:"):
        parse_connect_rule(text)


async def test_a_rule_fits_whatever_the_case_of_the_name() -> None:
    rules = dict([parse_connect_rule("xks.example.com:443=[::1]:8443")])

    (address,) = await resolve("XKS.example.com", 443, rules)

    assert str(address) == "[::1]:8443"
