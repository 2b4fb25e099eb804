"""Damages that leave the grammar of a file whole: other values, types, ends of ranges, keys, and bytes of DER."""

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from msgspec.inspect import CustomType, DictType, Field, ListType, StructType, Type, UnionType, VarTupleType, type_info

from xksproxy.config.model import Config

_LITERALS: Final = (
    *re.split(
        rb" \| |\n",
        rb"""
"" | " " | "a" | "A " | "." | ".." | "/" | "/dev/null" | "/dev/zero" | "/no/such" | "-" | "=" | "*" | "1-" | "0x10"
"\u0000" | "\n" | "\ud800" | "\u001b[31m" | "\u202e\u2028" | "\u00e9" | "e\u0301" | "%s{0}$HOME" | "12:34:56"
"[::1]:1" | ":0" | "127.0.0.1:65536" | "127.0.0.0/8" | "::/0" | "http://" | "http://[::1" | "http://127.0.0.1:99999/"
0 | -0 | 1 | -1 | 2 | 255 | 256 | 65535 | 65536 | 2147483647 | 2147483648 | 4294967296 | 9223372036854775807
9223372036854775808 | -9223372036854775808 | 18446744073709551616 | 0.0 | 0.5 | -0.0 | 1e-320 | 1e15 | 1e308 | 1e309
1.7976931348623157e308 | nan | inf | -inf | true | false | null | [] | {} | [[]] | [0] | [""] | ["a", "a"]
[1, 2] | [{}]
0001-01-01T00:00:00+14:00 | 9999-12-31T23:59:59-12:00 | 9999-12-31T23:59:59Z | 1979-05-27 | 07:32:00
{ file = "pin" } | { env = "HOME" } | { env = "" } | { credential = "a" } | { file = "" }
{ file = "pin", env = "HOME" } | { a = "a" } | {"a": 1} | {"": {}}
{ 0 = 1 } | { 1 = "a", 2 = "a" } | { 1 = "" } | { 99999999999999999999 = "a" }
{ "-1" = "a" } | { "" = "" } | { a = 1, b = [] }
""".strip(),
    ),
    *(b'"' + b"a" * 300 + b'"', b'"' + b"A/" * 3000 + b'"', b"9" * 400),
)
_BESIDE: Final = (b" ", b"\\t", b"\\n", b"\\u00a0", b"\\ufeff", b"/", b".", b"-", b"%", b"A" * 64, b"\xcc\x81")
_TOKEN: Final = re.compile(rb'"(?:[^"\\\n]|\\.)*+"|[\w.+-]++')
_VALUE: Final = re.compile(rb"(?:%b)(?!\s*[=:])" % _TOKEN.pattern)
_CONTAINER: Final = re.compile(rb"\[[^\[\]\n]*\]|\{[^{}\n]*\}")
_HEADER: Final = re.compile(rb"^\[\[?([\w.-]+)\]\]?\n", re.MULTILINE)
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n([A-Za-z0-9+/=\n]+)-----END \1-----\n")


def other_values(content: bytes, random: Random) -> bytes:
    """A file of which one to three values or keys are others."""
    for _ in range(random.randint(1, 3)):
        content = _pem_damage(content, random) if _PEM.search(content) else random.choice(_DAMAGES)(content, random)
    return content


def _other_value(content: bytes, random: Random) -> bytes:
    return _with_another(_VALUE, content, random, lambda _: random.choice(_LITERALS))


def _other_container(content: bytes, random: Random) -> bytes:
    return _with_another(_CONTAINER, content, random, lambda _: random.choice(_LITERALS))


def _value_of_another_place(content: bytes, random: Random) -> bytes:
    tokens = _TOKEN.findall(content)
    return _with_another(_TOKEN, content, random, lambda _: random.choice(tokens))


def _value_beside(content: bytes, random: Random) -> bytes:
    """Move a number by one, or put something at an end of a text."""

    def beside(token: bytes) -> bytes:
        if re.fullmatch(rb"-?\d{1,20}", token):
            return str(int(token) + random.choice((-1, 1))).encode()
        more = random.choice(_BESIDE)
        if not token.startswith(b'"'):
            return token + token
        return b'"' + more + token[1:] if random.random() < 0.5 else token[:-1] + more + b'"'

    return _with_another(_VALUE, content, random, beside)


def _another_key(content: bytes, random: Random) -> bytes:
    """Give a table of a configuration one more key that it may have, or one that is there already."""
    headers = [header for header in _HEADER.finditer(content) if header[1] in _KEYS]
    if not headers:
        return _other_value(content, random)
    header = random.choice(headers)
    line = random.choice(_KEYS[header[1]]) + b" = " + random.choice(_LITERALS) + b"\n"
    return content[: header.end()] + line + content[header.end() :]


def _another_table(content: bytes, random: Random) -> bytes:
    if not _HEADER.search(content):
        return _other_container(content, random)
    table = random.choice([*_KEYS])
    opening = random.choice((b"[%b]\n", b"[[%b]]\n")) % table
    return content + opening + random.choice(_KEYS[table]) + b" = " + random.choice(_LITERALS) + b"\n"


def _with_another(
    pattern: re.Pattern[bytes], content: bytes, random: Random, another: Callable[[bytes], bytes]
) -> bytes:
    found = [*pattern.finditer(content)]
    if not found:
        return content
    place = random.choice(found)
    return content[: place.start()] + another(place[0]) + content[place.end() :]


def _pem_damage(content: bytes, random: Random) -> bytes:
    """Change bytes inside a certificate or a key, which stays PEM."""
    block = random.choice([*_PEM.finditer(content)])
    der = bytearray(b64decode(block[2]))
    start = random.randrange(len(der) + 1)
    match random.randrange(8):
        case 0:
            del der[start : start + random.randint(1, 8)]
        case 1:
            der[start:start] = random.randbytes(random.randint(1, 8))
        case 2 | 3 | 4:
            der[start : start + 1] = bytes(random.choices((0, 1, 2, 3, 5, 6, 12, 23, 24, 48, 49, 127, 128, 160, 255)))
        case _:
            der[start : start + 1] = random.randbytes(1)
    text = b64encode(der)
    lines = b"".join(text[at : at + 64] + b"\n" for at in range(0, len(text), 64))
    return content[: block.start(2)] + lines + content[block.end(2) :]


_DAMAGES: Final = (
    *(_other_value, _other_container, _value_of_another_place, _value_beside),
    *(_another_key, _another_table),
)


def _tables(name: str, kind: Type) -> Iterator[tuple[str, tuple[Field, ...]]]:
    """Return the tables of the configuration with their keys."""
    match kind:
        case StructType(fields=fields):
            yield name, fields
            for field in fields:
                yield from _tables(f"{name}.{field.encode_name}".removeprefix("."), field.type)
        case VarTupleType(item_type=item) | ListType(item_type=item):
            yield from _tables(name, item)
        case UnionType(types=kinds):
            for one in kinds:
                yield from _tables(name, one)
        case DictType() | CustomType() | _:
            return


_KEYS: Final = {
    name.encode(): tuple(field.encode_name.encode() for field in fields)
    for name, fields in _tables("", type_info(Config))
    if name
}
"""The keys of each table of the configuration."""
