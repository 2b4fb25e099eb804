"""What the proxy writes for itself, damaged: state files, runtime files, backups and the audit log."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import click
import msgspec
from mutations import Kind

from xksproxy.cli.policy_request import compose_request, read_fields
from xksproxy.cli.state import read_backup
from xksproxy.client.target import TargetError, read_credential
from xksproxy.config.model import Audit
from xksproxy.config.secret import Secret
from xksproxy.encoding import encode_json
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.pkcs11.pin_record import read_record
from xksproxy.keystore.kms_config import console_json
from xksproxy.server import reload_problem
from xksproxy.server.followers import proxies_of
from xksproxy.server.reload_verdict import Verdict, decide, wait_for_verdict
from xksproxy.server.worker_status import HsmStatus, InForce, Refusal, WorkerStatus, read_in_force, read_status
from xksproxy.sigv4.keyring import Credential
from xksproxy.state.audit_spool import AuditSpool
from xksproxy.state.backup import BackupRefused, problems_of, restore_backup, take_backup
from xksproxy.state.blocks import block_table
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.doubt import mark_doubt, read_doubt
from xksproxy.state.known_credentials import KnownCredentials
from xksproxy.state.retired_credentials import RetiredCredentials, mark_retired
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import StateNumber
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_names import UsageNames
from xksproxy.state.versions import version_table
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.chain import verify_lines
from xksproxy.telemetry.chain_copy import verify_copy
from xksproxy.telemetry.published_file import PublishedFile

_RELEASE: Final = Path(__file__).parent / "unit" / "state" / "releases" / "0.1.0"
_KEY: Final = Secret("k" * 64)
_RESTORED: Final = 16
"""A backup is restored over one in so many damaged files, because that takes long."""

_FEW: Final = 200
"""Examples of each file; there are many, and one thing reads most of them."""

_NOW: Final = 1_900_000_000.0


def _entries(table: SharedTable[Any]) -> Any:
    table.refresh()
    return table.entries()


_READERS: Final[dict[str, Callable[[Path], Any]]] = {
    "blocks-dev.json": lambda state: _entries(block_table(state, "dev")),
    "versions-dev.json": lambda state: _entries(version_table(state, "dev")),
    "keys-dev.json": lambda state: FingerprintRecords(state, "dev").get("demo-key"),
    "fingerprints.json": lambda state: FingerprintIndex(state).of("demo-key"),
    "usage/key-demo-key.json": lambda state: list(UsageBook(state).records.read_all()),
    "usage-names.json": lambda state: UsageNames(state).of("id:0a0b"),
    "credential-uses.json": lambda state: CredentialUses(state, "dev").last_used(("AKEXAMPLE00000000001",)),
    "known-credentials.json": lambda state: KnownCredentials(state).follow({"dev": (state, {"AKEXAMPLE": "0123"})}),
    "retired-credentials.json": lambda state: RetiredCredentials(state).refresh(),
    "services.json": proxies_of,
    "pin-116ecbe52042917f.json": lambda state: read_record(state / "pin-116ecbe52042917f.json"),
    "number.json": lambda state: StateNumber(state).read(),
    "manifest/blocks-dev.json": lambda state: _entries(block_table(state, "dev")),
}
"""What reads each file of the state directory."""


def _read_state(name: str, path: Path) -> tuple[str, ...]:
    """Read a file as the proxy does, then as `state check` and `state backup` do, and restore a backup over it."""
    state, content, problems = path.parents[name.count("/")], path.read_bytes(), []
    readers = [_READERS[name], take_backup]
    if crc32(content) % _RESTORED == 0:
        readers.append(partial(_restore, state.parent / "backup.json"))
    for read in readers:
        try:
            read(state)
        except (StateUnusable, HsmError) as error:
            problems.append(str(error))
    problems += [problem for _, problem in problems_of(state) if problem]
    for pristine in (source := state.parent.with_name("pristine") / state.name).rglob("*.json"):
        (state / pristine.relative_to(source)).write_bytes(pristine.read_bytes())  # which reading may have changed
    return tuple(problems)


def _restore(backup: Path, state: Path) -> None:
    copied = state.with_name(f"{state.name}-copy")
    shutil.rmtree(copied, ignore_errors=True)
    restore_backup(shutil.copytree(state, copied), read_backup(backup), 1.0, _NOW)


def _read_backup(path: Path) -> tuple[str, ...]:
    state = path.with_name("restored")
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir()
    try:
        restore_backup(state, read_backup(path), 1.0, _NOW)
    except click.UsageError as error:
        return (str(error),)
    except BackupRefused as error:  # to which the command adds the name of the file
        return (f"{path}: {error}",)
    return ()


def _read_spool(path: Path) -> tuple[str, ...]:
    return () if all(AuditSpool(path.parents[1]).entries().values()) else (_UNREADABLE,)


def _verify(path: Path) -> tuple[str, ...]:
    """Verify an audit log, as it is and as a copy. Damages at its end may be no problem."""
    with path.open("rb") as lines:
        problems = verify_lines(lines, _KEY).problems
    with path.open("rb") as lines:
        verify_copy([(str(path), lines)], _KEY)
    return tuple(problems)


def _explain(path: Path) -> tuple[str, ...]:
    try:
        compose_request(read_fields(path.read_bytes()))
    except click.UsageError as error:
        return (error.message,)
    return ()


def _read_console_json(path: Path) -> tuple[str, ...]:
    try:
        read_credential(path)
    except TargetError as error:
        return (str(error),)
    return ()


def _published(read: Callable[[Path, int], Any], name: str, path: Path) -> tuple[str, ...]:
    """Read a content with a right checksum, and the damaged file."""
    content = path.read_bytes()
    publisher = PublishedFile(path.with_name(name), len(content) + 1000)
    publisher.write(content)
    assert publisher._descriptor is not None
    os.close(publisher._descriptor)  # a worker has one for its whole life
    result = read(path.parent, 1)
    path.with_name(name).write_bytes(content)
    read(path.parent, 1)
    return () if result is not None else (_UNREADABLE,)


def _read_doubt(path: Path) -> tuple[str, ...]:
    return () if read_doubt(path.parent).startswith("an older copy") else (_UNREADABLE,)


def _read_verdict(path: Path) -> tuple[str, ...]:
    reload_problem.read(path.parent)
    return () if wait_for_verdict(path.parent, "request", 0) else (_UNREADABLE,)


def make_records(directory: Path) -> Path:
    """Write a valid file of each kind that the proxy writes."""
    states = directory / "states"
    for name in _READERS:
        state = states / _slug(name)
        state.mkdir(parents=True)
        for source in (name, f"manifest/{name}", *(("blocks-dev.json",) if name.startswith("manifest") else ())):
            if (_RELEASE / source).exists():
                (state / source).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(_RELEASE / source, state / source)
    mark_retired(states / _slug("retired-credentials.json"), "dev", "AKEXAMPLE00000000001")
    StateNumber(states / _slug("number.json")).advance()
    shutil.copytree(states, directory / "pristine")
    backup = msgspec.to_builtins(take_backup(_RELEASE)) | {"taken_at": _NOW - 60}
    for place in (directory, states):
        (place / "backup.json").write_text(json.dumps(backup))
    shutil.copytree(_RELEASE / "audit", directory / "spool" / "audit")
    next((directory / "spool" / "audit").iterdir()).rename(directory / "spool" / "audit" / _EVENT)
    audit = AuditLog(Audit(file=str(directory / "audit.log"), chain=True), _KEY)
    for number in range(5):
        audit.write("request", partial(dict, status=200, number_of=number))
    audit.close()
    (directory / "line.json").write_text(_LINE)
    (directory / "console.json").write_text(console_json("/dev", Credential("A" * 20, "s" * 43)))
    (directory / "console.json").chmod(0o600)
    hsm = HsmStatus("softhsm", "serving", "", "vendor", "model", 1, 2, 0)
    refusal = Refusal(_NOW, "dev", "Encrypt", "demo-key", "InternalException", "message", "127.0.0.1")
    status = WorkerStatus(1, _NOW, _NOW, 0, True, (hsm,), (refusal,))
    (directory / "status").write_bytes(encode_json(status))
    (directory / "in-force").write_bytes(
        encode_json(InForce("state", {"blocks-dev.json": 3}, (), {"dev": ("AKEXAMPLE",)}))
    )
    mark_doubt(directory, "an older copy")
    decide(directory, Verdict("request", ("a problem",)))
    return directory


def _slug(name: str) -> str:
    return name.replace("/", "-")


_EVENT: Final = "01796004544612039467-f97043a9.json"
_LINE: Final = json.dumps(
    {
        "message": "request",
        "keystore": "dev",
        "operation": "Encrypt",
        "key_id": "demo-key",
        "region": "eu-west-1",
        "request_metadata": {
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
            "kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd",
            "kmsOperation": "Encrypt",
            "kmsRequestId": "1",
        },
    }
)
_UNREADABLE: Final = "it cannot be read"
"""The problem of a file that no person names, and whose reader goes on without it."""

RECORDS: Final = (
    *(Kind(f"state {name}", f"states/{_slug(name)}/{name}", partial(_read_state, name), _FEW) for name in _READERS),
    Kind("backup", "backup.json", _read_backup, _FEW),
    Kind("event", f"spool/audit/{_EVENT}", _read_spool, _FEW, _UNREADABLE),
    Kind("audit log", "audit.log", _verify, place=r"line \d+: |chain [0-9a-f]+[: ]"),
    Kind("line of a log", "line.json", _explain, _FEW, r".*--[a-z]+"),
    Kind("file of the KMS console", "console.json", _read_console_json, _FEW),
    Kind("status of a worker", "status", partial(_published, read_status, "worker-1.status"), _FEW, _UNREADABLE),
    Kind("what is in force", "in-force", partial(_published, read_in_force, "in-force-1"), _FEW, _UNREADABLE),
    Kind("doubt", "doubt.json", _read_doubt, _FEW, _UNREADABLE),
    Kind("verdict of a reload", "reload-verdict", _read_verdict, _FEW, _UNREADABLE),
)
"""The kinds of files that the proxy writes, and that commands read."""
