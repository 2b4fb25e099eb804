"""Other proxies, from a file."""

from pathlib import Path

import msgspec
from xksproxy_tools.load.plan import Destination

from benchmarks.processes import listening_on
from benchmarks.servers import Server
from benchmarks.workbench import Other
from xksproxy.client.target import Target, TargetError, parse_endpoint, parse_uri_path, read_credential

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    endpoint: str
    path: str
    credential_file: str
    key: str
    keys_on_token: int
    ca: str | None = None
    region: str = "us-east-1"


def read_others(file: Path) -> list[Other]:
    """Read a JSON list of proxies. Paths are relative to the file.

    The processes of a proxy on this machine are found by its port.

    Raises:
        TargetError: the file, or a file that it names, cannot be used.
    """
    try:
        entries = msgspec.json.decode(file.read_bytes(), type=list[_Entry])
    except (OSError, msgspec.DecodeError) as error:
        raise TargetError(f"{file}: {error}") from None
    return [_other(entry, file.parent) for entry in entries]


def _other(entry: _Entry, directory: Path) -> Other:
    host, port = parse_endpoint(entry.endpoint)
    target = Target(
        host,
        port,
        parse_uri_path(entry.path),
        entry.region,
        read_credential(directory / entry.credential_file),
        directory / entry.ca if entry.ca else None,
    )
    pid = listening_on(port) if host in _THIS_MACHINE else None
    return Other(entry.name, Server((Destination(target, entry.key),), pid), entry.keys_on_token)
