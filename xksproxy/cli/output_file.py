"""The files that commands write documents to."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click


@dataclass(frozen=True, slots=True)
class Output:
    """Where a document goes. What stands there is replaced once the document is whole."""

    path: Path
    standard: bool
    """Whether it is standard output, which then has nothing else."""

    def write(self, document: str) -> None:
        """Put the document in place."""
        if self.standard:
            click.echo(document, nl=False)
        else:
            self.path.write_text(document, "utf-8")


class _OutputType(click.Path):
    """Looked at before the run, so that a wrong name does not cost one."""

    name = "file"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        standard = value == "-"
        if not standard and not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"no file can be made at {path}", parameter, context)
        return Output(path, standard)


OUTPUT: Final = _OutputType(dir_okay=False, writable=True, allow_dash=True)
