"""The proxy's parser beside h11, which is another's: `python -m benchmarks.framing` does the same at length."""

from benchmarks.framing import compare


def test_the_proxy_sees_no_request_that_h11_does_not_see() -> None:
    counts, faults = compare(2_000, seed=13)

    assert faults == []
    assert counts["read alike"] > 300, "hardly anything is compared"
    assert counts["refused by both"] > 300, "hardly anything is wrong"
