"""docs/configuration.md, made from the typed model: each key's type, bounds, default and text."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.inspect import (
    BoolType,
    BytesType,
    DictType,
    Field,
    FloatType,
    IntType,
    ListType,
    LiteralType,
    Metadata,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)
from msgspec.structs import replace

from xksproxy.config.model import Config, Hsm, Key, KeyStore, ProxyProtocol, Server, Tls
from xksproxy.config.secret import SecretReference
from xksproxy.server.snapshot import fixed_settings

_INTRODUCTION = """\
# Configuration reference

This page lists every configuration key, by table. The configuration is one TOML file.
[config/xksproxy.toml](../config/xksproxy.toml) is an annotated example with the same keys.

- `xksproxy check-config` lists all unknown keys first. When there are none, it names the first value
  of a wrong type; then every other wrong value and file.
- Relative paths are relative to the directory of the configuration file.
- A key whose default is "required" must be set.
- A secret is a table with exactly one member: `{ file = "…" }`, a regular file that others cannot read;
  `{ env = "…" }`, an environment variable; or `{ credential = "…" }`, a systemd credential (`LoadCredential=`). It is
  UTF-8 text of at most 64 KiB (a PIN: 4 KiB). One line break at its end is ignored; a byte-order mark, another blank
  at either end or a NUL is refused.
- A file with a secret belongs to root or to the user of the proxy, and its mode is 0600 or 0400. 0640 and 0440 are
  accepted if its group is one of that user's, as in a Kubernetes volume with `fsGroup`.
  It has no POSIX ACL that lets others read it.
- On SIGHUP, some tables change inside the running workers, and no connection is closed. For others the workers are
  replaced one after another. Each table says which. [operations.md](operations.md#reload) describes a reload.

This file is generated from `xksproxy/config/model.py`. If it is out of date, a test fails and says how to generate it.
"""
_INSIDE = "SIGHUP changes it inside the running workers."
_REPLACED = "SIGHUP replaces the workers."


@dataclass(frozen=True)
class _Table:
    path: tuple[str, ...]
    heading: str
    struct: StructType


def render() -> str:
    """The whole file."""
    information = type_info(Config)
    assert isinstance(information, StructType)
    return "\n".join([_INTRODUCTION, *(_section(table) for table in _tables(information, ()))])


def _tables(struct: StructType, path: tuple[str, ...]) -> Iterator[_Table]:
    for field in struct.fields:
        at = (*path, field.encode_name)
        for nested, repeated in _structs(field.type):
            name = ".".join(at)
            yield _Table(at, f"[[{name}]]" if repeated else f"[{name}]", nested)
            yield from _tables(nested, at)


def _structs(kind: Type, *, repeated: bool = False) -> Iterator[tuple[StructType, bool]]:
    """The tables in a type, and whether there may be several; a secret is a value like another."""
    match kind:
        case StructType() if kind.cls is not SecretReference:
            yield kind, repeated
        case Metadata(type=inner):
            yield from _structs(inner, repeated=repeated)
        case VarTupleType(item_type=inner) | ListType(item_type=inner):
            yield from _structs(inner, repeated=True)
        case UnionType(types=choices):
            for choice in choices:
                yield from _structs(choice, repeated=repeated)


def _section(table: _Table) -> str:
    texts = _texts(table.struct.cls)
    rows = [
        f"| `{field.encode_name}` | {_kind(field.type)} | {_default(field)} | {_prose(texts.get(field.name, ''))} |"
        for field in table.struct.fields
        if not any(_structs(field.type))
    ]
    about = _prose(re.sub(r"^``\[+[a-z._]+\]+``: ", "", inspect.getdoc(table.struct.cls) or ""))
    follows = _follows(table)
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {table.heading}", "", f"{about[:1].upper()}{about[1:]} {follows}", "", *head, *rows, ""])


def _follows(table: _Table) -> str:
    """What a change of the table asks for."""
    if _changes_inside(table.path):
        return _INSIDE
    return _REPLACED


def _texts(struct: type) -> Mapping[str, str]:
    """The text below each field of a struct."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(struct))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def _prose(text: str) -> str:
    """reStructuredText on one line of Markdown, without the ids of requirements."""
    flat = re.sub(r"\s*\((?:R-[A-Z]+-\d+(?:, )?)+\)", "", " ".join(text.split()))
    return flat.replace("``", "`").replace("|", "\\|")


def _default(field: Field) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value in (None, (), {}, []):
        return "none"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return str(value)


def _kind(kind: Type) -> str:
    match kind:
        case Metadata(type=inner):
            return _kind(inner)
        case VarTupleType() | ListType():
            least = f", at least {kind.min_length}" if kind.min_length else ""
            return f"list of {_kind(kind.item_type)}{least}"
        case DictType():
            names, values = (_kind(part).removesuffix(", may be empty") for part in (kind.key_type, kind.value_type))
            return f"table of {values} by {names}"
        case StructType():
            return "secret" if kind.cls is SecretReference else "table"
        case UnionType():
            return ", or ".join(_kind(choice) for choice in kind.types if not isinstance(choice, NoneType))
    return _simple(kind)


def _simple(kind: Type) -> str:
    match kind:
        case BoolType():
            return "true or false"
        case IntType() | FloatType():
            name = "whole number" if isinstance(kind, IntType) else "number"
            return f"{name}{_bounds(kind.ge, kind.gt, kind.le, kind.lt)}"
        case StrType():
            return "text" if kind.min_length else "text, may be empty"
        case BytesType():
            return f"Base64{_bounds(kind.min_length, None, kind.max_length, None, ' bytes')}"
        case LiteralType():
            *others, last = (f"`{_toml(value)}`" for value in sorted(kind.values, key=str))
            return f"{', '.join(others)} or {last}" if others else last
    raise AssertionError(f"config_reference.py does not know how to call {kind}")


def _bounds(least: Any, above: Any, most: Any, below: Any, unit: str = "") -> str:
    if least is not None and most is not None:
        return f", {least:,} to {most:,}{unit}"
    limits = (("at least", least), ("above", above), ("at most", most), ("below", below))
    return "".join(f", {word} {limit:,}{unit}" for word, limit in limits if limit is not None)


def _changes_inside(path: tuple[str, ...]) -> bool:
    """Whether a reload puts a changed table in place without new workers."""
    tls = Tls(certificate="a", private_key="b")
    store = KeyStore(name="a", uri_path_prefix="", hsms=("a",), credentials="a", keys=(Key(id="a"),))
    before = Config(server=Server(tls=tls), hsm=(Hsm(id="a", module="a", token="a"),), keystore=(store,))
    if path == ("server",):
        changed = replace(before.server, workers=before.server.workers + 1)
    elif path == ("server", "proxy_protocol"):
        changed = replace(before.server, proxy_protocol=ProxyProtocol(from_=("10.0.0.0/8",)))
    elif path[0] == "server":
        changed = replace(before.server, tls=replace(tls, certificate="c", client_ca="d", client_names=("e",)))
    else:
        changed = ()
    return fixed_settings(replace(before, **{path[0]: changed})) == fixed_settings(before)
