"""Pagination of lists with Limit, Marker, Truncated and NextMarker."""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from xksproxy_tools.kms_emulator.errors import KmsError

Item = TypeVar("Item")


def page(
    items: Sequence[Item], parameters: Mapping[str, Any], *, by: Callable[[Item], str], limit: int
) -> tuple[list[Item], dict[str, Any]]:
    """The items of one page, and the members of the response that say whether there are more.

    ``items`` are sorted by the unique key ``by``. ``limit`` is the default of Limit. Items that are added or removed
    between two requests do not make another item appear twice or be left out.

    Raises:
        KmsError: InvalidMarkerException, for a Marker that no response had.
    """
    if "Marker" in parameters:
        last = _last_of(parameters["Marker"])
        items = [item for item in items if by(item) > last]
    limit = parameters.get("Limit", limit)
    shown = list(items[:limit])
    if len(items) <= limit:
        return shown, {"Truncated": False}
    return shown, {"Truncated": True, "NextMarker": base64.urlsafe_b64encode(by(shown[-1]).encode()).decode("ascii")}


def _last_of(marker: str) -> str:
    try:
        return base64.b64decode(marker, altchars=b"-_", validate=True).decode()
    except ValueError:
        raise KmsError("InvalidMarkerException", f"Invalid marker '{marker}'") from None
