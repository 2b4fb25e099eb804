"""Records the actions of commands in the audit log."""

import os
import sys
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error
from xksproxy.state.audit_spool import AuditSpool, actor
from xksproxy.state.private_files import user_name
from xksproxy.state.state_file import StateUnusable

_USER: Final = "xksproxy.user"


def note_user(context: click.Context) -> None:
    """Keep the user who runs the command, before the process becomes the owner of the files that it changes."""
    context.meta[_USER] = user_name(os.geteuid())


def record_event(state_directory: Path, message: str, **fields: Any) -> None:
    """Add an event for the audit log. A running proxy writes it within a second; otherwise the next one that starts.

    If this fails, print the reason and exit with code 1, although the change was made. A missing state directory is not
    made, because the command may run as another user than the service: before the first start there is no log.
    """
    if not state_directory.exists():
        print_error(f"the audit log will have no line about this command: {state_directory} does not exist yet")
        return
    user = click.get_current_context().meta.get(_USER)
    try:
        AuditSpool(state_directory).put(message, {**fields, **actor(user)})
    except StateUnusable as error:
        print_error(
            f"the change is made, but the audit log will have no line about it: {error}",
            "make sure that the state directory can be written, and record this command in another place",
        )
        sys.exit(FOUND_SOMETHING_WRONG)
