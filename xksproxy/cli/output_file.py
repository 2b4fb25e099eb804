"""The type of options that name an output file."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.output import print_document, write_output


@dataclass(frozen=True, slots=True)
class Output:
    """The destination of a document: a file, or standard output. An existing file is replaced."""

    path: Path
    standard: bool
    """Whether it is standard output. Then the command must print nothing else there."""

    def write(self, document: str) -> None:
        """Write the document."""
        if self.standard:
            print_document(document) if sys.stdout.isatty() else write_output(document)
        else:
            self.path.write_text(document, "utf-8")


class _OutputType(click.Path):
    """Checks the path before the command runs, so that a wrong path does not waste a run."""

    name = "file"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        standard = value == "-"
        if not standard and not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"cannot create {path}: its directory does not exist or is not writable", parameter, context)
        return Output(path, standard)


OUTPUT: Final = _OutputType(dir_okay=False, writable=True, allow_dash=True)
