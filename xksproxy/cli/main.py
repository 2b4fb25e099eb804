"""The command ``xksproxy``. Exit codes: 0 success, 1 a problem was found, 2 the command could not run."""

import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Final, NoReturn

import click

from xksproxy import __version__
from xksproxy.cli.commands import Commands
from xksproxy.cli.output import (
    COULD_NOT_RUN,
    FOUND_SOMETHING_WRONG,
    discard_unwritten,
    explain,
    prepare_streams,
    print_error,
)
from xksproxy.cli.privilege import MisleadingConfiguration, MisleadingPath, WrongUser, denied_hint
from xksproxy.cli.record_event import note_user
from xksproxy.config.errors import ConfigError
from xksproxy.config.secret import SecretError
from xksproxy.exhaustion import exhaustion
from xksproxy.hsm.abandonable_thread import is_left_inside
from xksproxy.hsm.errors import HsmError
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.state_file import StateUnusable

_TRACEBACK_VARIABLE: Final = "XKSPROXY_TRACEBACK"
_OPENSSL_HINT: Final = "check this machine's openssl.cnf and the variable OPENSSL_CONF"
_OPENSSL_ERRORS: Final = frozenset({"InternalError", "UnsupportedDigestmodError"})
"""What `cryptography` and `hashlib` raise where openssl.cnf demands FIPS and there is no FIPS provider."""

_LIMITS: Final = {
    errno.EFBIG: ("raise the limit of file sizes: ulimit -f, or LimitFSIZE= in the systemd unit",),
    errno.EAGAIN: ("raise the limit of processes: ulimit -u, or TasksMax= in the systemd unit",),
    errno.EMFILE: ("raise the limit of open files: ulimit -n, or LimitNOFILE= in the systemd unit",),
}
"""What to do about errors that the limits of a process cause."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="xksproxy")
@click.pass_context
def cli(context: click.Context) -> None:
    """An AWS KMS external key store (XKS) proxy. Your keys stay in your HSM.

    \b
    Try it on this machine:   xksproxy dev
    Run it:                   xksproxy serve --config /etc/xksproxy/xksproxy.toml
    """
    note_user(context)


def main() -> None:
    """Run the command line. Errors are printed without a traceback."""
    _use_utf8()
    try:
        _run()
    except SystemExit as leaving:
        discard_unwritten()
        if is_left_inside():
            os._exit(leaving.code if isinstance(leaving.code, int) else COULD_NOT_RUN)
        raise


def _use_utf8() -> None:
    """Start the interpreter again in its UTF-8 mode, unless file names and variables are UTF-8 already.

    The configuration is UTF-8, and names files, variables and labels. In a locale with another encoding, the same
    configuration would name other files, or none.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions and sys.executable:  # noqa: SLF001
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - no shell is meant


def _explained(error: OSError) -> tuple[str, ...]:
    """What is wrong, and what to do about it if that is known."""
    limit = _LIMITS.get(error.errno or 0, ())
    if error.filename:
        return f"{error.filename}: {error.strerror}", *limit
    if "ssl" in sys.modules and isinstance(error, sys.modules["ssl"].SSLError):
        return (f"OpenSSL cannot be used: {error}", _OPENSSL_HINT)
    try:
        Path.cwd()
    except FileNotFoundError:
        return ("the working directory was removed; change to another one",)
    return error.strerror or str(error), *limit


def _causes_in_machine(error: Exception) -> tuple[str, ...]:
    """What is wrong with this machine; empty if the error has another cause."""
    if reason := exhaustion(error):
        return (reason,)
    if type(error).__name__ in _OPENSSL_ERRORS:
        return "OpenSSL cannot be used: it refuses algorithms that the proxy needs", _OPENSSL_HINT
    return ()


def _run() -> NoReturn:
    prepare_streams()
    try:
        cli()
    except (MisleadingConfiguration, MisleadingPath, WrongUser) as error:
        print_error(str(error), error.hint)
    except ConfigError as error:
        print_error("the configuration cannot be used:", *error.problems, *denied_hint(error.problems))
    except RotationRefused as error:
        print_error(str(error), *error.hints)
        sys.exit(FOUND_SOMETHING_WRONG)
    except (HsmError, SecretError) as error:
        print_error(str(error), *explain(error))
    except StateUnusable as error:
        print_error(f"the state directory cannot be used: {error}")
    except OSError as error:
        print_error(*_explained(error))
    except Exception as error:
        if causes := _causes_in_machine(error):
            print_error(*causes)
            sys.exit(COULD_NOT_RUN)
        if _TRACEBACK_VARIABLE in os.environ:
            raise
        *_, frame = traceback.extract_tb(error.__traceback__)
        print_error(
            f"unexpected {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}",
            "this is a defect of xksproxy; please report it",
            f"with the environment variable {_TRACEBACK_VARIABLE}=1 the command shows where it happened",
        )
    sys.exit(COULD_NOT_RUN)
