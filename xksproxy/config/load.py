"""Loading of the configuration file."""

import difflib
import re
import stat
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec.structs import replace

from xksproxy.config.access_list import READ, acl_problem
from xksproxy.config.errors import ConfigError, ConfigUnreadable
from xksproxy.config.model import Audit, Config, Hsm, KeyStore, Tls
from xksproxy.config.regular_file import FileRefused, RegularFile, read_regular_file, text_of
from xksproxy.config.secret import SecretReference
from xksproxy.config.service_user import ServiceUser
from xksproxy.config.toml_problems import REPEATED_TABLES, toml_problem

_MAXIMUM_BYTES: Final = 64 * 1024 * 1024
"""Of the configuration file. 10,000 key stores with some keys each need a few MiB."""

_MOST_BYTES_OF_A_PATH: Final = 4095
_MOST_BYTES_OF_A_NAME: Final = 255

_HEADER: Final = re.compile(r"\s*\[(\[\s*(?P<row>[\w-]+)\s*\]\]|\s*(?P<table>[\w-]+)\s*\]|.*)\s*(#.*)?")
_INDEX: Final = re.compile(r"\[[^]]*\]")


def load_config(path: Path) -> Config:
    """Read and type-check a configuration file. Relative paths start at its directory.

    Raises:
        ConfigUnreadable: the file cannot be read.
        ConfigError: the file is not TOML, or has an unknown key or a wrong type.
    """
    try:
        file = _read(path)
    except FileRefused as error:
        raise ConfigUnreadable([str(error)]) from None
    try:
        text = text_of(path, file.content)
        tables = tomllib.loads(text)
    except FileRefused as error:
        raise ConfigError([str(error)]) from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number with thousands of digits
        raise ConfigError([f"{path}: not TOML: {toml_problem(error, text)}"]) from None
    if unknown := [f"{path}: {problem}" for problem in _unknown_keys(tables, Config, "")]:
        raise ConfigError(unknown)
    try:
        config = msgspec.convert(tables, Config, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigError([f"{path}: {_readable(str(error))}"]) from None
    except RecursionError:
        raise ConfigError([f"{path}: its values are nested too deeply"]) from None
    config = _with_absolute_paths(config, path.absolute().parent)
    for at, value in (("state.directory", config.state.directory), ("audit.file", config.audit.file or "")):
        if problem := _path_problem(value):
            raise ConfigError([f"{path}: {at}: {problem}"])
    _refuse_readable_secrets(path, stat.S_IMODE(file.status.st_mode), config)
    return config


def _path_problem(path: str) -> str:
    """Why nothing can have this path; empty if something can."""
    if "\0" in path:
        return "a path cannot have a NUL character"
    encoded = path.encode(errors="surrogatepass")
    if len(encoded) > _MOST_BYTES_OF_A_PATH:
        return f"a path can have {_MOST_BYTES_OF_A_PATH} bytes at most; this one has {len(encoded)}"
    longest = max(map(len, encoded.split(b"/")))
    if longest > _MOST_BYTES_OF_A_NAME:
        return f"a name in a path can have {_MOST_BYTES_OF_A_NAME} bytes at most; one has {longest}"
    return ""


def load_tables(path: Path) -> dict[str, Any]:
    """The tables of a configuration file, unchecked, for commands that work although a part of it is wrong.

    Raises:
        FileRefused: the file cannot be read.
        ValueError: it is not TOML.
    """
    return tomllib.loads(text_of(path, _read(path).content))


def load_readable_lines(path: Path) -> dict[str, Any]:
    """The tables of a file that is not TOML as a whole, with the members whose lines are TOML.

    Subtables are left out. A table with another line, which may be part of a value, has the member "".

    Raises:
        FileRefused: the file cannot be read.
    """
    tables: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for line in text_of(path, _read(path).content).splitlines():
        if header := _HEADER.fullmatch(line):
            members = {}
            if header["row"]:
                tables.setdefault(header["row"], []).append(members)
            elif header["table"]:
                tables[header["table"]] = members
            continue
        try:
            members.update(tomllib.loads(line))
        except (ValueError, RecursionError):
            members[""] = line
    return tables


def _read(path: Path) -> RegularFile:
    return read_regular_file(path, _MAXIMUM_BYTES)


def _unknown_keys(tables: dict[str, Any], model: type[msgspec.Struct], at: str) -> Iterator[str]:
    """One problem for each unknown key, with the most similar known key."""
    fields = _keys_of(model)
    for key, value in tables.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(fields)}"
            yield f"{at}{key}: unknown key; {hint}"
            continue
        nested = fields[key]
        if nested is None:
            continue
        rows = value if isinstance(value, list) else [value]
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                place = f"{at}{key}[{index}]" if isinstance(value, list) else f"{at}{key}"
                yield from _unknown_keys(row, nested, f"{place}.")


@cache
def _keys_of(model: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct] | None]:
    """The keys of a table, each with the model of the tables within it."""
    return {field.encode_name: _struct_within(field.type) for field in msgspec.structs.fields(model)}


def _struct_within(annotation: Any) -> type[msgspec.Struct] | None:
    """The table model inside a type such as ``Annotated[tuple[Key, ...], …]`` or ``Reference | str``."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next((struct for part in get_args(annotation) if (struct := _struct_within(part))), None)


def _readable(text: str) -> str:
    """``Expected `int`, got `str` - at `$.server.workers```, with the path of the key at the start."""
    what, separator, place = text.replace(" - at `key` in `$", " as a key - at `$").partition(" - at `$")
    if what.startswith("Invalid enum value"):
        what += f"; expected one of {', '.join(_choices(place.strip('.`')))}"
    what = what.replace("Object missing required field", "missing key").replace("object", "table")
    if what == "Expected `array`, got `table`" and (name := _INDEX.sub("", place.strip(".`"))) in REPEATED_TABLES:
        what += f"; write [[{name}]] instead of [{name}]"
    return f"{place.strip('.`')}: {what}" if separator and place.strip(".`") else what


def _choices(place: str) -> tuple[str, ...]:
    """The values that the model allows for a key such as ``hsm[0].preset``."""
    annotation: Any = Config
    for name in _INDEX.sub("", place).split("."):
        model = _struct_within(annotation)
        fields = {} if model is None else {field.encode_name: field for field in msgspec.structs.fields(model)}
        if name not in fields:
            return ()
        annotation = fields[name].type
    literals = [part for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal]
    return tuple(value for literal in literals for value in get_args(literal))


def _refuse_readable_secrets(path: Path, mode: int, config: Config) -> None:
    inline = [f"hsm[{index}].pin" for index, hsm in enumerate(config.hsm) if isinstance(hsm.pin, str)]
    if not inline:
        return
    problem = f"its mode is {mode:04o}, so others can read it" if mode & stat.S_IRWXO else None
    problem = problem or acl_problem(path, READ, ServiceUser.of_state_directory(Path(config.state.directory)))
    if problem:
        raise ConfigError(
            [
                f"{path}: {place}: a secret is inline in this file: {problem};"
                ' use { file = "…" }, { env = "…" } or { credential = "…" }'
                for place in inline
            ],
        )


def _with_absolute_paths(config: Config, base: Path) -> Config:
    return replace(
        config,
        server=replace(config.server, tls=_absolute_tls(config.server.tls, base)),
        hsm=tuple(_absolute_hsm(hsm, base) for hsm in config.hsm),
        audit=_absolute_audit(config.audit, base),
        state=replace(config.state, directory=str(base / config.state.directory)),
        keystore=tuple(_absolute_key_store(store, base) for store in config.keystore),
    )


def _absolute_tls(tls: Tls, base: Path) -> Tls:
    return replace(
        tls,
        certificate=str(base / tls.certificate),
        private_key=str(base / tls.private_key),
        client_ca=None if tls.client_ca is None else str(base / tls.client_ca),
    )


def _absolute_hsm(hsm: Hsm, base: Path) -> Hsm:
    pin = _absolute_reference(hsm.pin, base) if isinstance(hsm.pin, SecretReference) else hsm.pin
    return replace(hsm, module=str(base / hsm.module), pin=pin)


def _absolute_audit(audit: Audit, base: Path) -> Audit:
    file = None if audit.file is None else str(base / audit.file)
    return replace(audit, file=file, key=None if audit.key is None else _absolute_reference(audit.key, base))


def _absolute_reference(reference: SecretReference, base: Path) -> SecretReference:
    return reference if reference.file is None else replace(reference, file=str(base / reference.file))


def _absolute_key_store(store: KeyStore, base: Path) -> KeyStore:
    policies = None if store.policies is None else tuple(str(base / path) for path in store.policies)
    return replace(store, credentials=str(base / store.credentials), policies=policies)
