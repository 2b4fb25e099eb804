"""What differs between two configurations, by name."""

from collections.abc import Iterator
from typing import Any

import msgspec

from xksproxy.config.model import Config


def changed_names(before: Config, after: Config) -> list[str]:
    """The names of the settings that differ, such as ``keystore.payments.keys.demo-key.disabled``. No values.

    Entries of a list are named by their ``name`` or ``id``. Files that the configuration names are not read.
    """
    return sorted(_differences("", _plain(before), _plain(after)))


def _plain(config: Config) -> Any:
    # References to secrets and inline PINs are compared, and never returned.
    return msgspec.to_builtins(config, builtin_types=(bytes,), enc_hook=repr)


def _differences(at: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    one, other = _members(before), _members(after)
    if one is None or other is None:
        yield at
        return
    for name in {*one, *other}:
        path = f"{at}.{name}" if at else str(name)
        if name in one and name in other:
            yield from _differences(path, one[name], other[name])
        else:
            yield path


def _members(value: Any) -> dict[str, Any] | None:
    """The members of a table, or of a list of tables; None if it is neither."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, dict) for item in value):
        return {str(item.get("name", item.get("id", number))): item for number, item in enumerate(value)}
    return None
