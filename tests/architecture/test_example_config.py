"""The annotated example is complete and true: it loads, holds every key there is, and states the real defaults."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import NODEFAULT, FieldInfo

from xksproxy.config.check import check_config
from xksproxy.config.load import load_config
from xksproxy.config.model import Config

_EXAMPLE = Path(__file__).parents[2] / "config" / "xksproxy.toml"


def _structs_in(annotation: Any) -> Iterator[type[msgspec.Struct]]:
    """The structs inside a type such as ``Annotated[tuple[Key, ...], …]`` or ``Reference | str``."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        yield annotation
    for part in get_args(annotation):
        yield from _structs_in(part)


def _fields(
    model: type[msgspec.Struct] = Config, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every field of the configuration with the tables that lead to it."""
    for field in msgspec.structs.fields(model):
        yield (*at, field.encode_name), field
        for nested in _structs_in(field.type):
            yield from _fields(nested, (*at, field.encode_name))


_FIELDS = dict(_fields())


@pytest.fixture
def example() -> str:
    return _EXAMPLE.read_text("utf-8")


@pytest.fixture
def complete(example: str) -> str:
    """The example with its commented-out keys switched on. Prose and indented text stay comments."""
    return re.sub(r"(?m)^# ([a-z_]+ = .*|\[\[?[a-z.]+\]\]?)$", r"\1", example)


def _values(tables: Any, path: tuple[str, ...]) -> Iterator[Any]:
    """All values at a path, through every table of an array."""
    if isinstance(tables, list):
        for table in tables:
            yield from _values(table, path)
    elif not path:
        yield tables
    elif isinstance(tables, dict) and path[0] in tables:
        yield from _values(tables[path[0]], path[1:])


def test_the_example_loads_as_it_stands() -> None:
    config = load_config(_EXAMPLE)

    # Nothing is wrong with it but that the files it names are not here.
    wrong = [problem for problem in check_config(config) if "no file" not in problem and "No such file" not in problem]
    assert wrong == []


def test_the_example_loads_with_every_commented_key_switched_on(complete: str, tmp_path: Path) -> None:
    (tmp_path / "xksproxy.toml").write_text(complete)

    load_config(tmp_path / "xksproxy.toml")


@pytest.mark.parametrize("path", _FIELDS, ids=".".join)
def test_every_key_of_the_configuration_stands_in_its_table_of_the_example(
    complete: str, example: str, path: tuple[str, ...]
) -> None:
    if _is_secret_reference(path):
        # One of three ways; the comment above the key shows them all.
        assert re.search(rf"{{ {path[-1]} = ", example)
    else:
        assert list(_values(tomllib.loads(complete), path)) != []


def _is_secret_reference(path: tuple[str, ...]) -> bool:
    parent = _FIELDS.get(path[:-1])
    return parent is not None and any(struct.__name__ == "SecretReference" for struct in _structs_in(parent.type))


@pytest.mark.parametrize("path", _FIELDS, ids=".".join)
def test_a_key_that_is_commented_out_states_its_default(complete: str, example: str, path: tuple[str, ...]) -> None:
    stated = list(_values(tomllib.loads(complete), path))
    default = _default(_FIELDS[path])
    has_default = default is not NODEFAULT and default not in (None, (), {}) and not isinstance(default, msgspec.Struct)
    if has_default and not list(_values(tomllib.loads(example), path)):
        assert stated
        assert all(value == default and type(value) is type(default) for value in stated)


def _default(field: FieldInfo) -> Any:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


@pytest.mark.parametrize("path", _FIELDS, ids=".".join)
def test_a_required_key_is_set_in_the_example(example: str, path: tuple[str, ...]) -> None:
    table = _FIELDS.get(path[:-1])
    if _FIELDS[path].required and (table is None or table.required):
        assert list(_values(tomllib.loads(example), path)) != []
