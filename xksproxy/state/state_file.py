"""Files of the state directory. They are read and replaced as a whole, under a lock that all processes share."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.encoding import encode_json
from xksproxy.state.private_files import open_file, opened_directory, read_file, replace_file_of, replace_files_of

FORMAT: Final = 1
"""The format of the files. It changes only if an older release would misunderstand a file."""

MANIFEST: Final = "manifest"
"""The directory that records the existence and the revision of each state file."""

_POLL_SECONDS: Final = 0.01

UnixTime: TypeAlias = Annotated[float, msgspec.Meta(ge=-62_135_596_800, lt=253_402_300_800)]
"""A time in a file, in seconds, of the years 1 to 9999. A file with another one, which cannot be shown, is damaged."""

Content = TypeVar("Content")
Document = dict[str, Any]


class StateUnusable(Exception):
    """The state directory or a file in it cannot be used. Unreadable state is refused, never ignored."""


class StateWentBack(StateUnusable):
    """A file was deleted, or is an older copy than one that was there before."""


class _ManifestRecord(msgspec.Struct, frozen=True):
    """What the manifest records of one file."""

    revision: int
    """The file has had this revision. A file with an older one was replaced by an old copy."""


@contextmanager
def file_lock(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a file. Waits at most ``timeout`` seconds; makes the directory if it is missing.

    Raises:
        StateUnusable: the directory cannot be used, or another process holds the lock.
    """
    with StateFile(path.parent, path.name).locked(timeout):
        yield


def read_json(path: Path, content_type: type[Content]) -> Content | None:
    """The decoded content of a JSON file; None if there is no file (StateUnusable if it cannot be read)."""
    with _unusable(path):
        try:
            with opened_directory(path.parent) as directory:
                content = read_file(path.name, directory)
        except FileNotFoundError:
            return None
    return _decode(path, content, content_type)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically and sync it to disk (StateUnusable if that fails)."""
    with _unusable(path), opened_directory(path.parent) as directory:
        replace_file_of(path.name, content, directory)


def write_together(documents: Mapping["StateFile", Mapping[str, Any]]) -> None:
    """Replace several files of one directory as :meth:`StateFile.write` does, with one sync for all.

    The manifest keeps the revisions before, which harms nothing: it says that a file must not be older.

    Raises:
        StateUnusable: one cannot be written. Some may be replaced.
    """
    path = next(iter(documents)).path
    revisions = {file: file.next_revision for file in documents}
    contents = {file.path.name: file.encoded(document, revisions[file]) for file, document in documents.items()}
    with _unusable(path), opened_directory(path.parent) as directory:
        replace_files_of(contents, directory)
    for file, revision in revisions.items():
        file.note_written(revision)


class StateFile:
    """One file: a JSON object with a format number and a revision, which each change raises by one.

    The manifest records, after each change, that the file exists and which revision it has. So a file that has
    vanished, or was replaced by an older copy, is refused by every process. A process also remembers the newest
    revision that it has seen. Files of a release that had no format number are read as revision 0.
    """

    # A worker has several for each key store, so they are kept small.
    __slots__ = ("_relative", "_revision", "_root")

    def __init__(self, root: Path, name: str) -> None:
        """``name`` is relative to the state directory ``root``, such as ``usage/key-demo.json``."""
        self._root = root
        self._relative = name
        self._revision = -1

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._root / self._relative

    @property
    def _below(self) -> list[str]:
        return self._relative.split("/")[:-1]

    @property
    def name(self) -> str:
        """The name of the file, without its directory."""
        return self._relative.rpartition("/")[2]

    @property
    def revision(self) -> int:
        """The newest revision that this process has seen; -1 if it has seen no file."""
        return self._revision

    @contextmanager
    def locked(self, timeout: float) -> Iterator[None]:
        """Hold the lock of the file; see :func:`file_lock`."""
        lock = Path(self.name).with_suffix(".lock").name
        with _unusable(self.path), opened_directory(self._root, *self._below, create=True) as directory:
            descriptor = open_file(lock, os.O_RDWR | os.O_CREAT, directory)
        try:
            with _unusable(self.path):
                _wait_for_lock(descriptor, self.path, timeout)
            yield
        finally:
            os.close(descriptor)

    def signature(self) -> tuple[int, ...] | None:
        """Metadata that change when the file is replaced; None if there is no file (StateUnusable if unknown)."""
        with _unusable(self.path):
            try:
                status = os.lstat(f"{self._root}/{self._relative}")  # without a Path: it is asked often
            except FileNotFoundError:
                return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size

    def read(self) -> Document | None:
        """The object in the file, or None if the file has never existed.

        Raises:
            StateUnusable: the file cannot be read.
            StateWentBack: it was deleted, or is an older copy.
        """
        found = self.read_as(lambda document: document)
        return None if found is None else found[1]

    def read_as(self, converted: Callable[[Document], Content]) -> tuple[Content, Document] | None:
        """What ``converted`` makes of the object in the file, and the object. None if the file has never existed.

        Raises:
            StateUnusable: the file cannot be read or converted.
            StateWentBack: it was deleted, or is an older copy.
        """
        # The manifest first: a writer changes it last.
        recorded = self.recorded()
        known = max(self._revision, -1 if recorded is None else recorded)
        try:
            with opened_directory(self._root, *self._below) as directory:
                encoded = read_file(self.name, directory)
        except FileNotFoundError:
            if known >= 0:
                raise self._went_back("it was deleted; restore it", recorded) from None
            return None
        except OSError as error:
            raise StateUnusable(f"{self.path}: {error.strerror}") from error
        document = _decode(self.path, encoded, dict[str, Any])
        revision = self._revision_of(document)
        if revision < known:
            raise self._went_back(f"it is an older copy, revision {revision} of {known}; restore the newest", recorded)
        try:
            content = converted(document)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise StateUnusable(f"{self.path}: {error}") from error
        # Only now: a damaged document must not make the right one look older.
        self._revision = max(self._revision, revision)
        return content, document

    def _went_back(self, how: str, recorded: int | None) -> StateWentBack:
        """The error. If the record went back too, it is made anew, so that the next process refuses the file too."""
        if self._revision > (-1 if recorded is None else recorded):
            with suppress(StateUnusable):
                self.record()
        return StateWentBack(f"{self.path}: {how}")

    def write(self, document: Mapping[str, Any]) -> None:
        """Replace the file by the next revision. The caller holds the lock and has read the file under it.

        Raises:
            StateUnusable: the file or its record in the manifest cannot be written.
        """
        revision = self.next_revision
        with _unusable(self.path), opened_directory(self._root, *self._below, create=True) as directory:
            replace_file_of(self.name, self.encoded(document, revision), directory)
        self.note_written(revision)
        try:
            self.record()
        except StateUnusable as error:
            raise StateUnusable(f"{error}; the change of {self.path} is in force, but it is not recorded") from error

    def supersede(self, document: Mapping[str, Any], revision: int) -> None:
        """Replace a file that may be lost or older, by a revision above ``revision`` and that of the manifest.

        The caller holds the lock.

        Raises:
            StateUnusable: the file or its record in the manifest cannot be written.
        """
        with suppress(StateUnusable):
            revision = max(revision, self.recorded() or 0)
        self.note_written(revision)
        self.write(document)

    @property
    def next_revision(self) -> int:
        """The revision of the next change. The caller holds the lock and has read the file under it."""
        return max(self._revision, 0) + 1

    def note_written(self, revision: int) -> None:
        """Note that the file has, or had, this revision: an older one is refused from now on."""
        self._revision = max(self._revision, revision)

    def record(self) -> None:
        """Record the newest revision in the manifest. The caller holds the lock (StateUnusable if it fails)."""
        record = msgspec.json.encode(_ManifestRecord(max(self._revision, 0)))
        with _unusable(self._record_path):  # noqa: SIM117 - the line would be too long
            with opened_directory(self._root, MANIFEST, *self._below, create=True) as directory:
                # After a power failure the older record may be in place, which does no harm.
                replace_file_of(self.name, record, directory, sync_directory=False)

    @property
    def is_recorded(self) -> bool:
        """Whether the manifest may have a record of the file, which :meth:`recorded` reads."""
        try:
            os.lstat(f"{self._root}/{MANIFEST}/{self._relative}")
        except FileNotFoundError:
            return False
        except OSError:
            pass
        return True

    def recorded(self) -> int | None:
        """The revision in the manifest; None if the file is not recorded (StateUnusable if it cannot be read)."""
        with _unusable(self._record_path):
            try:
                with opened_directory(self._root, MANIFEST, *self._below) as directory:
                    content = read_file(self.name, directory)
            except FileNotFoundError:
                return None
        return _decode(self._record_path, content, _ManifestRecord).revision

    @property
    def _record_path(self) -> Path:
        return self._root.joinpath(MANIFEST, *self._below, self.name)

    def _revision_of(self, document: Document) -> int:
        form, revision = document.get("format"), document.get("revision", 0)
        if not isinstance(form, int):
            return 0
        if form != FORMAT or not isinstance(revision, int):
            raise StateUnusable(f"{self.path}: its format is {form}, expected {FORMAT}; a later release wrote it")
        if (named := document.get("file", self._relative)) != self._relative:
            raise StateUnusable(f"{self.path}: it is a copy of {named}; restore the right file")
        return revision

    def encoded(self, document: Mapping[str, Any], revision: int) -> bytes:
        """The content of the file with a document. Its name is in it, so that it cannot pass for another file."""
        return encode_json({**document, "file": self._relative, "format": FORMAT, "revision": revision})


def _decode(path: Path, content: bytes, content_type: type[Content]) -> Content:
    try:
        return decode_json(content, content_type)
    except msgspec.MsgspecError as error:
        raise StateUnusable(f"{path}: {error}") from error


@contextmanager
def _unusable(path: Path) -> Iterator[None]:
    """Raise StateUnusable in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise StateUnusable(f"{path}: {error.strerror or error}") from error


def _wait_for_lock(descriptor: int, path: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise StateUnusable(f"{path}: another process holds its lock") from None
            time.sleep(_POLL_SECONDS)
        else:
            return
