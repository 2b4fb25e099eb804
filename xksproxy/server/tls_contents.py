"""The content of the files of ``[server.tls]``, so that a context can be built when the files have changed."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Tls
from xksproxy.config.regular_file import MAXIMUM_FILE_BYTES, FileRefused, read_regular_file
from xksproxy.config.secret import MAXIMUM_SECRET_BYTES


@dataclass(frozen=True, slots=True)
class TlsContents:
    """Certificate, private key, and the CA for clients if there is one."""

    certificate: bytes
    private_key: bytes
    client_ca: bytes | None

    @classmethod
    def read(cls, tls: Tls) -> Self:
        """Read the files.

        Raises:
            ConfigError: one cannot be read.
        """
        ca = None if tls.client_ca is None else _content("client_ca", tls.client_ca)
        private_key = _content("private_key", tls.private_key, MAXIMUM_SECRET_BYTES)
        return cls(_content("certificate", tls.certificate), private_key, ca)

    @contextmanager
    def as_files(self, tls: Tls) -> Iterator[Tls]:
        """The settings with paths at which this process, and no other, finds this content. It is in memory only.

        Python's ssl loads a private key from a path only. A ConfigError that leaves the block names the paths of
        ``tls``, because those of the content mean nothing to an operator, and change with each try.
        """
        with ExitStack() as stack:
            content = replace(
                tls,
                certificate=stack.enter_context(memory_file(self.certificate)),
                private_key=stack.enter_context(memory_file(self.private_key)),
                client_ca=None if self.client_ca is None else stack.enter_context(memory_file(self.client_ca)),
            )
            try:
                yield content
            except ConfigError as error:
                raise ConfigError([_with_paths_of(tls, content, problem) for problem in error.problems]) from None


def _with_paths_of(tls: Tls, content: Tls, text: str) -> str:
    """A text about ``content`` with the paths of ``tls``."""
    paths = {
        str(content.certificate): str(tls.certificate),
        str(content.private_key): str(tls.private_key),
        str(content.client_ca): str(tls.client_ca),
    }
    return re.sub(r"/proc/self/fd/\d+", lambda found: paths.get(found[0], found[0]), text)


def _content(name: str, path: str, maximum_bytes: int = MAXIMUM_FILE_BYTES) -> bytes:
    try:
        return read_regular_file(Path(path), maximum_bytes).content
    except FileRefused as error:
        raise ConfigError([f"server.tls.{name}: {error}"]) from None


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """The path at which this process, and no other, finds a content."""
    descriptor = os.memfd_create("xksproxy-tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
