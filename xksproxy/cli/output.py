"""Output of the commands: results on standard output, errors on standard error.

Nothing else prints but :mod:`~xksproxy.cli.table`. File names, labels, reasons and answers come from elsewhere, so
whatever a terminal could obey is escaped here.
"""

import io
import json
import os
import sys
from contextlib import suppress
from typing import Any, Final

import click

from xksproxy.config.secret import SecretOfService
from xksproxy.hsm.errors import LoginRefused
from xksproxy.printable import printable, printable_lines

FOUND_SOMETHING_WRONG: Final = 1
COULD_NOT_RUN: Final = 2


def prepare_streams() -> None:
    """Make the standard streams fit for use.

    A descriptor from 0 to 2 that is closed is opened on /dev/null, so that no file or socket gets its number. Output is
    UTF-8 whatever the locale says; what is not text, such as a file name in another encoding, is escaped.
    """
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def print_line(text: str = "", *, err: bool = False) -> None:
    """Print one line to standard output, or to standard error."""
    write_output(f"{printable(text)}\n", err=err)


def print_document(text: str) -> None:
    """Print a text of several lines, which ends with a line feed if it is to have one."""
    write_output(printable_lines(text))


def print_error(message: str, *more: str) -> None:
    """Print an error message to standard error, with further lines indented. The exit code is the answer without it."""
    with suppress(OSError):
        for line in (f"xksproxy: {message}", *(f"  {line}" for line in more)):
            print_line(line, err=True)


def print_progress(text: str) -> None:
    """Print to standard error what a command waits for."""
    print_line(f"xksproxy: {text}", err=True)


def explain(error: Exception) -> tuple[str, ...]:
    """Return hints for an error, if there are any."""
    if isinstance(error, LoginRefused):
        return ("check the pin of this [[hsm]]; some tokens lock after three wrong PINs, so do not guess",)
    if isinstance(error, SecretOfService):
        return ("run the command as the service, with its credentials: as-xksproxy COMMAND ...",)
    return ()


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Print a document as JSON. Everything but ASCII is escaped."""
    write_output(f"{json.dumps(document, indent=indent)}\n")


def write_output(text: str | bytes, *, err: bool = False) -> None:
    """Write a text as it is.

    Raises:
        OSError: it cannot be written. The file name of the error is the stream, unless its reader has gone.
    """
    try:
        click.echo(text, nl=False, err=err)
    except BrokenPipeError:  # which click turns into the exit code 1
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard error" if err else "standard output") from None


def discard_unwritten() -> None:
    """Forget what could not be written. At its end, the interpreter would try again, and exit with code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
