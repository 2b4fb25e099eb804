"""Lists by pages."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.pagination import page


def pages(items: list[str], limit: int) -> list[list[str]]:
    shown, more = page(items, {"Limit": limit}, by=str, limit=50)
    result = [shown]
    while more["Truncated"]:
        shown, more = page(items, {"Limit": limit, "Marker": more["NextMarker"]}, by=str, limit=50)
        result.append(shown)
    assert "NextMarker" not in more
    return result


def test_all_items_come_once_in_their_order() -> None:
    assert pages(["a", "b", "c", "d", "e"], 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert pages(["a", "b"], 2) == [["a", "b"]]
    assert pages([], 1) == [[]]


def test_without_a_limit_there_is_one_all_the_same() -> None:
    shown, more = page([f"{number:02}" for number in range(60)], {}, by=str, limit=50)

    assert len(shown) == 50
    assert more["Truncated"]


def test_what_is_removed_between_two_pages_hides_nothing_else() -> None:
    _, more = page(["a", "b", "c"], {"Limit": 1}, by=str, limit=50)

    shown, _ = page(["b", "c"], {"Limit": 1, "Marker": more["NextMarker"]}, by=str, limit=50)

    assert shown == ["b"]


@pytest.mark.parametrize("marker", ["x", "????", "/w==", "ÿÿÿÿ"])
def test_a_marker_that_no_answer_had_is_refused(marker: str) -> None:
    with pytest.raises(KmsError, match="InvalidMarkerException"):
        page(["a"], {"Marker": marker}, by=str, limit=50)
