"""The limit for the audit lines of strangers."""

from xksproxy.server.stranger_sums import StrangerSums


def test_fifty_requests_of_a_second_have_a_line_and_the_next_second_has_fifty_again() -> None:
    sums = StrangerSums()

    assert [sums.has_line(7.0 + number / 100) for number in range(60)] == [True] * 50 + [False] * 10
    assert sums.has_line(8.0)


def test_the_others_are_counted_by_network_key_store_error_and_reason() -> None:
    sums = StrangerSums()
    for peer in ("192.0.2.1", "192.0.2.200", "198.51.100.1"):
        sums.add(peer, "payments", "AuthenticationFailedException", "no signature")
    sums.add("2001:db8::1", "", "InvalidUriPathException", None)
    sums.add("fe80::1%eth0", "", "InvalidUriPathException", None)

    common = {"keystore": "payments", "error": "AuthenticationFailedException", "reason": "no signature"}
    assert list(sums.take()) == [
        {"peer_network": "192.0.2.0/24", **common, "count": 2},
        {"peer_network": "198.51.100.0/24", **common, "count": 1},
        {"peer_network": "2001:db8::/64", "error": "InvalidUriPathException", "count": 1},
        {"peer_network": "fe80::/64", "error": "InvalidUriPathException", "count": 1},
    ]
    assert list(sums.take()) == []


def test_no_number_of_kinds_fills_the_memory_and_none_is_lost() -> None:
    sums = StrangerSums()
    for number in range(1000):
        sums.add("192.0.2.1", "", "InvalidUriPathException", f"reason {number}")

    found = list(sums.take())

    assert len(found) == 101
    assert found[-1] == {"count": 900}
    assert sum(fields["count"] for fields in found) == 1000
