"""Pagination."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.pagination import page


def test_the_default_limit_applies_without_a_limit() -> None:
    items = [f"{number:02}" for number in range(60)]

    shown, more = page(items, {}, by=str, limit=50)

    assert (shown, more["Truncated"]) == (items[:50], True)
    assert page(items[:50], {}, by=str, limit=50) == (items[:50], {"Truncated": False})
    assert page([], {}, by=str, limit=50) == ([], {"Truncated": False})


def test_an_item_removed_between_two_pages_hides_no_other_item() -> None:
    _, more = page(["a", "b", "c"], {"Limit": 1}, by=str, limit=50)

    shown, _ = page(["b", "c"], {"Limit": 1, "Marker": more["NextMarker"]}, by=str, limit=50)

    assert shown == ["b"]


@pytest.mark.parametrize("marker", ["x", "????", "/w==", "ÿÿÿÿ"])
def test_a_marker_that_no_response_had_is_refused(marker: str) -> None:
    with pytest.raises(KmsError, match="InvalidMarkerException"):
        page(["a"], {"Marker": marker}, by=str, limit=50)
