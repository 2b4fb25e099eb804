"""Checks the constraints of botocore's shapes. Messages have the text of AWS."""

import re
from collections.abc import Iterator
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

_MUST = "failed to satisfy constraint: Member must"


def check(shape: Shape, value: Any) -> list[str]:
    """The violated constraints of decoded parameters, one sentence each.

    Required members, lengths, ranges, patterns and enum values are checked at any depth.
    """
    return list(_structure(shape, value, ""))


def _structure(shape: StructureShape, value: dict[str, Any], path: str) -> Iterator[str]:
    for name, member in shape.members.items():
        where = f"{path}{name[0].lower()}{name[1:]}"
        if name in value:
            yield from _value(member, value[name], where)
        elif name in shape.required_members:
            yield f"Value null at '{where}' {_MUST} not be null"


def _value(shape: Shape, value: Any, where: str) -> Iterator[str]:
    if shape.type_name == "structure":
        yield from _structure(shape, value, f"{where}.")
        return
    yield from (f"Value{_shown(shape, value)} at '{where}' {_MUST} {rule}" for rule in _unmet(shape, value))
    if isinstance(shape, ListShape):
        for number, entry in enumerate(value, start=1):
            yield from _value(shape.member, entry, f"{where}.{number}.member")
    elif isinstance(shape, MapShape):
        for name, entry in value.items():
            yield from _value(shape.key, name, f"{where}.key")
            yield from _value(shape.value, entry, f"{where}.{name}.value")


def _shown(shape: Shape, value: Any) -> str:
    """The value in quotes; empty if it is sensitive or not a scalar."""
    return f" '{value}'" if isinstance(value, str | int) and not shape.metadata.get("sensitive") else ""


def _unmet(shape: Shape, value: Any) -> Iterator[str]:
    metadata = shape.metadata
    what, size = ("value", value) if isinstance(value, int | float) else ("length", len(value))
    if "min" in metadata and size < metadata["min"]:
        yield f"have {what} greater than or equal to {metadata['min']}"
    if "max" in metadata and size > metadata["max"]:
        yield f"have {what} less than or equal to {metadata['max']}"
    if "enum" in metadata and value not in metadata["enum"]:
        yield f"satisfy enum value set: [{', '.join(metadata['enum'])}]"
    if "pattern" in metadata and not re.fullmatch(metadata["pattern"], value):
        yield f"satisfy regular expression pattern: {metadata['pattern']}"
