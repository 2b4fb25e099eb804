"""``xksproxy hsm``: the commands for an HSM."""

import sys
import time
from pathlib import Path
from typing import Final

import click

from xksproxy.cli.config_option import config_option, load_as_owner
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_line, print_progress
from xksproxy.cli.record_event import record_event
from xksproxy.hsm.pkcs11.pin_guard import PinGuard

_LONGEST_WAIT_SECONDS: Final = 60.0


@click.group()
def hsm() -> None:
    """Manage the HSMs.

    \b
    Example:
      xksproxy hsm allow-login hsm-1
    """


@hsm.command("allow-login")
@config_option
@click.argument("hsm_id", metavar="ID")
def allow_login(config_file: Path, hsm_id: str) -> None:
    """Allow another log-in with a PIN that the token refused, on this machine.

    No worker tries a refused PIN again, also not after a restart, because tokens lock after a few wrong PINs. Workers
    try a changed PIN without this command. Use it for the same PIN, when you know that the token accepts it. Workers
    try it within 30 seconds. While a worker logs in to the token, the command waits for it, at most a minute.

    \b
    Example:
      xksproxy hsm allow-login hsm-1
    """
    config = load_as_owner(config_file)
    if hsm_id not in {item.id for item in config.hsm}:
        hsm_ids = ", ".join(item.id for item in config.hsm)
        raise click.UsageError(f"no [[hsm]] has the id {hsm_id}; expected one of: {hsm_ids}")
    if not PinGuard(Path(config.state.directory)).forget(hsm_id, _Wait(hsm_id)):
        print_error(f"no PIN of {hsm_id} was refused on this machine; nothing was changed")
        sys.exit(FOUND_SOMETHING_WRONG)
    record_event(Path(config.state.directory), "log-in allowed", hsm=hsm_id, before="refused", after="not tried")
    print_line(f"the next log-in to {hsm_id} tries its PIN again; a wrong PIN counts towards the lock of the token")


class _Wait:
    """Says once what is waited for. It returns whether to go on, which is so for a minute."""

    def __init__(self, hsm_id: str) -> None:
        self._hsm_id = hsm_id
        self._end: float | None = None

    def __call__(self) -> bool:
        if self._end is None:
            self._end = time.monotonic() + _LONGEST_WAIT_SECONDS
            print_progress(
                f"another process is logging in to the token of {self._hsm_id}; waiting for it, at most"
                f" {_LONGEST_WAIT_SECONDS:.0f} s; `xksproxy status` says in which function of the module it is"
            )
        return time.monotonic() < self._end
