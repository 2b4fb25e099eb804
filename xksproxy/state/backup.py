"""A backup of the state directory in one file, and its restoration, after which nothing is open that was closed."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.model import MAXIMUM_ENCRYPTIONS
from xksproxy.decoding import convert, decode_json
from xksproxy.state.blocks import Block
from xksproxy.state.credential_uses import CredentialUse
from xksproxy.state.doubt import remove_doubt, settled_at
from xksproxy.state.private_files import opened_directory, read_file
from xksproxy.state.retired_credentials import RetiredCredential
from xksproxy.state.state_file import MANIFEST, Document, StateFile, StateUnusable, UnixTime
from xksproxy.state.state_number import FILE_NAME as NUMBER_FILE
from xksproxy.state.state_number import NumberRecord, StateNumber, settled
from xksproxy.state.usage_names import UsageName
from xksproxy.state.usage_records import KeyUsage
from xksproxy.state.versions import OF_ALL_KEYS, VersionRecord

FORMAT: Final = 1

MOST_PER_SECOND: Final = 7_200
"""The encryptions that a key can make in a second: KMS sends at most 1,800 requests, and each is tried a few times."""

_SKIPPED_VERSIONS: Final = 10
"""So many versions may have been made since the backup. Their numbers are not used again."""

_LOCK_SECONDS: Final = 5.0

_MOST_NAME_BYTES: Final = 255
"""Of a file, on Linux."""


class BackupRefused(StateUnusable):
    """The backup is damaged, or of the future. Nothing was changed."""


class Backup(msgspec.Struct, frozen=True):
    """The content of the state files of one machine."""

    taken_at: UnixTime
    """Unix time in seconds."""

    machine: str
    files: dict[str, Document]
    """By the name of the file in the state directory."""

    format: int = FORMAT


class _Doubt(msgspec.Struct, frozen=True):
    """What may have happened since the backup."""

    now: float
    settled_at: float
    encryptions: int
    """So many encryptions may have been made with each key."""


_Merge = Callable[[str, Document, Document, _Doubt], Document]


def take_backup(state_directory: Path) -> Backup:
    """Read all state files that have to be backed up. The proxy may run meanwhile.

    Raises:
        StateUnusable: a file cannot be read, was deleted, or is an older copy.
    """
    taken_at = time.time()  # before the files are read, so that what changes meanwhile counts as a later change
    names = file_names(state_directory)
    found = {name: StateFile(state_directory, name).read() for name in names}
    files = {name: _normal(name, document) for name, document in found.items() if document is not None}
    return Backup(taken_at, platform.node(), files)


def restore_backup(state_directory: Path, backup: Backup, encryptions_per_second: float, now: float) -> list[str]:
    """Merge a backup with what the state directory has, and return the names of the files that are lost without trace.

    Blocks, disabled versions and retired credentials of both stay. Counts are raised by what may have been made since
    the backup, and the numbers of versions that may have been made since are not used again. No proxy may run.

    Raises:
        BackupRefused: the backup is of the future or damaged.
        StateUnusable: a file cannot be written. The restoration can be repeated.
    """
    if now < backup.taken_at:
        raise BackupRefused(
            "the backup was taken at a later time than it is by the clock of this machine; set the clock"
        )
    for name in filter(_merge_of, backup.files):
        try:
            _check_content(name, backup.files[name])
        except msgspec.MsgspecError as error:
            raise BackupRefused(f"the backup is damaged: {name}: {error}") from None
    settled = settled_at(state_directory, now)  # later than now if the clock was ahead before, or is behind
    doubt = _Doubt(now, settled, round(encryptions_per_second * (settled - backup.taken_at)) + 1)
    names = {*file_names(state_directory), *filter(_merge_of, backup.files)}
    stores = {name.removesuffix(".json").partition("-")[2] for name in names if name.startswith(("keys-", "versions-"))}
    written = sorted(names | {NUMBER_FILE} | {f"versions-{store}.json" for store in stores})
    longest = max(len(part.encode(errors="surrogatepass")) for name in written for part in name.split("/"))
    if longest > _MOST_NAME_BYTES:
        raise BackupRefused(
            f"the backup is damaged: the name of a file has {longest} bytes; expected at most {_MOST_NAME_BYTES}"
        )
    lost = []
    for name in written:
        merge = _merge_of(name)
        assert merge is not None  # noqa: S101 - file_names and the filter above give only such names
        file = StateFile(state_directory, name)
        with file.locked(_LOCK_SECONDS):
            current, saved = _readable(state_directory, name), backup.files.get(name)
            if current is None and saved is None and name in names:
                lost.append(name)
            current, saved = _normal(name, current or {}), saved or _normal(name, {})
            revision = max(_revision(current), _revision(saved))
            file.supersede(merge(name, saved, current, doubt), revision)
    remove_doubt(state_directory)
    return lost


def accept_directory(state_directory: Path, encryptions_per_second: float, now: float) -> list[str]:
    """Settle a doubt without a backup: what the directory has counts as a backup of the time of its number.

    Without a number, as after a loss, or with one of a later time than ``now``, each key counts as full that has a
    record, or that is found without one. So each key has to be rotated. A key whose count is lost, or older than was
    recorded, counts as full anyway. It returns the names of the files that are lost or older. No proxy may run.

    Raises:
        StateUnusable: a file cannot be written. It can be repeated.
    """
    try:
        found = StateNumber(state_directory).read()
    except StateUnusable:
        found = None
    at, rate = now - 1, float(MAXIMUM_ENCRYPTIONS)
    if found is not None and found[1].at <= now:
        at, rate = found[1].at, encryptions_per_second
    there = {name: _readable(state_directory, name) for name in file_names(state_directory)}
    files = {name: _normal(name, document) for name, document in there.items() if document is not None}
    lost = [name for name, problem in problems_of(state_directory) if problem]
    # What is there of these is not of the time of the number, and a count may have been any.
    files |= {name: {"encryptions": MAXIMUM_ENCRYPTIONS} for name in lost if name.startswith("usage/")}
    restore_backup(state_directory, Backup(at, platform.node(), files), rate, now)
    return lost


def file_names(state_directory: Path) -> list[str]:
    """The names of the state files that exist or are in the manifest, and that a backup has, in their order."""
    found = {
        str(path.relative_to(root))
        for root in (state_directory, state_directory / MANIFEST)
        for path in (*root.glob("*.json"), *root.glob("usage/*.json"))
    }
    return sorted(filter(_merge_of, found))


def problems_of(state_directory: Path) -> Iterator[tuple[str, str]]:
    """The name of each state file, and why it is refused; empty if it is not."""
    for name in file_names(state_directory):
        try:
            StateFile(state_directory, name).read()
        except StateUnusable as error:
            yield name, str(error)
        else:
            yield name, ""


def _union(_: str, saved: Document, current: Document, __: _Doubt) -> Document:
    return {**saved, **current, "entries": {**saved["entries"], **current["entries"]}}


def _versions(name: str, saved: Document, current: Document, doubt: _Doubt) -> Document:
    # With fewer revisions than the backup, the directory does not continue it: it began anew after a loss.
    older, newer = (saved, current) if _revision(current) > _revision(saved) else (current, saved)
    entries = _union(name, older, newer, doubt)["entries"]
    known = [0]
    for key_id in entries:
        before, after = older["entries"].get(key_id, {}), newer["entries"].get(key_id, {})
        merged = {**before, **after}
        for field in ("proven", "extractable", "disabled", "abandoned"):
            merged[field] = sorted({*before.get(field, ()), *after.get(field, ())})
        # A directory that began anew may have had a disabled version as primary, because it did not know of that.
        primaries = [record["primary"] for record in (after, before) if record]
        merged["primary"] = next((number for number in primaries if number not in merged["disabled"]), primaries[0])
        merged["disabled"] = [number for number in merged["disabled"] if number != merged["primary"]]
        merged["highest"] = max(before.get("highest", 0), after.get("highest", 0))
        entries[key_id] = merged
        if key_id != OF_ALL_KEYS:  # which has the numbers that an earlier restoration skipped
            known.append(merged["highest"])
        known += [merged["primary"], merged.get("pending") or 0, *merged["proven"], *merged["disabled"]]
    highest = min(max(known, default=0) + _SKIPPED_VERSIONS, MAXIMUM_VERSION)
    marked = entries.get(OF_ALL_KEYS, {"primary": 1})
    entries[OF_ALL_KEYS] = {**marked, "highest": max(highest, marked.get("highest", 0))}
    return {**saved, **current, "entries": entries}


def _fingerprints(name: str, saved: Document, current: Document, doubt: _Doubt) -> Document:
    entries = _union(name, saved, current, doubt)["entries"]
    for key in saved["entries"].keys() & current["entries"].keys():
        before, after = saved["entries"][key]["fingerprints"], current["entries"][key]["fingerprints"]
        entries[key] = {"fingerprints": [*before, *(item for item in after if item not in before)]}
    return {**saved, **current, "entries": entries}


def _uses(name: str, saved: Document, current: Document, doubt: _Doubt) -> Document:
    entries = _union(name, saved, current, doubt)["entries"]
    for key in saved["entries"].keys() & current["entries"].keys():
        entries[key] = max(saved["entries"][key], current["entries"][key], key=lambda entry: entry["last_used"])
    return {**saved, **current, "entries": entries}


def _number(_: str, saved: Document, current: Document, doubt: _Doubt) -> Document:
    before = max(saved.get("unrecorded", 0), current.get("unrecorded", 0))
    return settled({**saved, **current, "unrecorded": before}, doubt.now, doubt.settled_at, doubt.encryptions)


def _usage(name: str, saved: Document, current: Document, doubt: _Doubt) -> Document:
    label = unquote(name.removeprefix("usage/key-").removesuffix(".json"))
    count = max(saved.get("encryptions", 0) + doubt.encryptions, current.get("encryptions", 0))
    used = {"encryptions": count, "last_encrypted": doubt.now, "last_decrypted": doubt.now}
    return {"label": label, **saved, **current, **used}


_KINDS: Final[Mapping[str, _Merge]] = {
    "blocks.json": _union,
    "blocks-*.json": _union,
    "retired-credentials.json": _union,
    "versions-*.json": _versions,
    "keys-*.json": _union,
    "fingerprints.json": _fingerprints,
    "usage-names.json": _union,
    "usage/key-*.json": _usage,
    "credential-uses.json": _uses,
    "credentials-*.json": _uses,
    NUMBER_FILE: _number,
}


class _Fingerprints(msgspec.Struct, frozen=True):
    """What merging needs of the entry of a key."""

    fingerprints: list[dict[str, Any]]


_CONTENTS: Final[Mapping[str, Any]] = {
    "blocks.json": dict[str, Block],
    "blocks-*.json": dict[str, Block],
    "retired-credentials.json": dict[str, RetiredCredential],
    "versions-*.json": dict[str, VersionRecord],
    "keys-*.json": dict[str, dict[str, Any]],
    "fingerprints.json": dict[str, _Fingerprints],
    "usage-names.json": dict[str, UsageName],
    "credential-uses.json": dict[str, CredentialUse],
    "credentials-*.json": dict[str, CredentialUse],
}
"""The entries of each table that is merged."""


def _check_content(name: str, document: Document) -> None:
    """Check that a document can be merged (msgspec.ValidationError if it cannot)."""
    if name.startswith("usage/"):
        convert({"label": "", **document}, KeyUsage)
    elif name == NUMBER_FILE:
        convert(document, NumberRecord)
    else:
        content = next(content for pattern, content in _CONTENTS.items() if fnmatchcase(name, pattern))
        convert(_normal(name, document).get("entries"), content)


def _merge_of(name: str) -> _Merge | None:
    """How a file is merged; None if it is not part of a backup, as what would be in another directory."""
    if "/" in name.removeprefix("usage/") or "\0" in name:
        return None
    return next((merge for pattern, merge in _KINDS.items() if fnmatchcase(name, pattern)), None)


def _normal(name: str, document: Document) -> Document:
    """The document of a table in the form of today."""
    if name.startswith("usage/") or name == NUMBER_FILE or isinstance(document.get("format"), int):
        return document
    return {"entries": document}


def _readable(root: Path, name: str) -> Document | None:
    """What a file has, even if it is an older copy; None if it cannot be read."""
    *below, last = name.split("/")
    try:
        with opened_directory(root, *below) as directory:
            document = decode_json(read_file(last, directory), dict[str, Any])
        _check_content(name, document)
    except (OSError, msgspec.MsgspecError):
        return None
    return document if document.get("file", name) == name else None


def _revision(document: Document) -> int:
    revision = document.get("revision", 0)
    return revision if isinstance(revision, int) else 0
