"""``xksproxy credentials``: create, list and retire the SigV4 credentials of a key store."""

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option
from xksproxy.cli.doubt import require_no_doubt
from xksproxy.cli.finite_range import FiniteRange
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.pasted import ID
from xksproxy.cli.privilege import acting_as_owner, become_owner, require_configuration_of_root, share_with_owner
from xksproxy.cli.record_event import record_event
from xksproxy.cli.report_followers import report_followers
from xksproxy.cli.table import print_table
from xksproxy.config.credentials import read_credential_file, read_credentials, save_credential
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, KeyStore
from xksproxy.rotation.credentials import reinstate_credential, retire_credential
from xksproxy.server.followers import Worker, holds, known_to_workers, refuses
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.known_credentials import KnownCredentials
from xksproxy.state.retired_credentials import FILE_NAME as RETIRED
from xksproxy.state.retired_credentials import mark_retired, unmark_retired
from xksproxy.state.state_file import StateUnusable

_COLUMNS = ("ACCESS KEY ID", "CREATED", "LAST USED HERE", "FILE")


@dataclass(frozen=True, slots=True)
class _Row:
    """One credential without its secret. Times are UTC, ISO 8601."""

    access_key_id: str
    created: str
    last_used: str | None
    file: str


class _UsesOfService(CredentialUses):
    """Reads the state directory as its owner, where the credentials belong to root."""

    def last_used(self, access_key_ids: tuple[str, ...]) -> Mapping[str, float]:
        """See :meth:`CredentialUses.last_used`."""
        with acting_as_owner(self.directory):
            return super().last_used(access_key_ids)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    return config_option(keystore_option(function))


@click.group()
def credentials() -> None:
    """Create, list, retire and reinstate the credentials with which KMS signs requests.

    Running workers read changes within three seconds. No request is lost. Secrets are never printed.

    \b
    Example:
      xksproxy credentials list
    """


@credentials.command()
@_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(config_file: Path, keystore_name: str | None, *, as_json: bool) -> None:
    """Create another credential for a key store. The existing ones stay valid.

    The file has mode 0600 and the owner of the directory; in a directory of root, mode 0640 and
    the group of the service. Use `xksproxy kms-config` to give
    the credential to KMS.

    \b
    Example:
      xksproxy credentials create --keystore payments
    """
    config, store = _open(config_file, keystore_name)
    _require_owner(config)
    directory = Path(store.credentials)
    directory.mkdir(mode=0o700, exist_ok=True)
    credential = generate_credential()
    path = save_credential(directory, credential, datetime.now(UTC))
    try:
        share_with_owner(path, Path(config.state.directory))
        _expect(config, store, credential.access_key_id, credential)
    except Exception:
        path.unlink(missing_ok=True)  # a credential that nobody was told of must not be valid
        raise
    _record(config, store, "credential created", credential.access_key_id, before=None, after="valid")
    if as_json:
        print_json({"keystore": store.name, "access_key_id": credential.access_key_id, "file": str(path)})
        return
    print_line(f"created the credential {credential.access_key_id} of the key store {store.name}")
    print_line(f"  {path}")
    print_line("running workers accept it within three seconds; then give it to KMS:")
    print_line(
        f"  xksproxy kms-config --keystore {store.name} --as aws-cli --update CUSTOM_KEY_STORE_ID --out credential.json"
    )
    _print_other_machines(config, f"copy the file, mode 0600, to the other {_others(config)} before you give it to KMS")


@credentials.command("list")
@_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_credentials(config_file: Path, keystore_name: str | None, *, as_json: bool) -> None:
    """List the credentials of a key store, with the time at which this machine last verified a request of each.

    The time is precise to one minute. Each machine records only its own requests.

    \b
    Example:
      xksproxy credentials list --keystore payments
    """
    rows = _rows(*_open(config_file, keystore_name))
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print_table(_COLUMNS, [(row.access_key_id, row.created, row.last_used or "never", row.file) for row in rows])


@credentials.command()
@_options
@click.argument("access_key_id", metavar="ID", type=ID)
@click.option(
    "--within",
    "days",
    type=FiniteRange(0),
    default=1,
    show_default=True,
    help="The days without use that are required.",
)
@click.option("--force", is_flag=True, help="Retire it although it may be in use: its requests will fail with 401.")
def retire(config_file: Path, keystore_name: str | None, access_key_id: str, days: float, *, force: bool) -> None:
    """Make a credential invalid. Its file is renamed to *.retired; no other file is changed.

    This is refused (exit code 1) if the credential was used recently, or if no other credential was used after it.
    --force overrides both. The last credential of a key store is never retired: create another one first.

    \b
    Example:
      xksproxy credentials retire BETWEEN2TENAND3TENCHARACTERS --within 2
    """
    config, store = _open(config_file, keystore_name)
    uses = _UsesOfService(Path(config.state.directory), store.name)
    _require_owner(config)
    path = retire_credential(Path(store.credentials), access_key_id, uses, within_days=days, force=force)
    _expect(config, store, access_key_id, None)
    recorded = _mark(config, store, access_key_id)
    _record(config, store, "credential retired", access_key_id, before="valid", after="retired", forced=force)
    print_line(f"retired {access_key_id}; its requests are answered with 401")
    print_line(f"  {path}")
    print_line(f"to undo this: xksproxy credentials reinstate {access_key_id} --keystore {store.name}")
    print_line("the file contains the secret, so delete it when you no longer need it")
    with acting_as_owner(Path(config.state.directory)):
        refused = refuses(store.name, access_key_id)
        # A worker may use another directory than the one in which it is recorded, after a removal.
        report_followers(
            Path(config.state.directory), lambda worker: refused(worker) and (recorded is None or recorded(worker))
        )
    _print_other_machines(config, f"run it on the other {_others(config)} too; each records only its own requests")
    if recorded is None:
        sys.exit(FOUND_SOMETHING_WRONG)


@credentials.command()
@_options
@click.argument("access_key_id", metavar="ID", type=ID)
def reinstate(config_file: Path, keystore_name: str | None, access_key_id: str) -> None:
    """Accept a retired credential again. Its file loses the ending .retired.

    A file that is renamed back or restored from a backup is not enough: the machine remembers that the credential was
    retired.

    \b
    Example:
      xksproxy credentials reinstate BETWEEN2TENAND3TENCHARACTERS
    """
    config, store = _open(config_file, keystore_name)
    state = Path(config.state.directory)
    with acting_as_owner(state):
        require_no_doubt(config)
    path = reinstate_credential(Path(store.credentials), access_key_id)
    if state.exists():
        with acting_as_owner(state):
            unmark_retired(state, store.name, access_key_id, known_to_workers(state, RETIRED))
    _expect(config, store, access_key_id, read_credential_file(path))
    _record(config, store, "credential reinstated", access_key_id, before="retired", after="valid")
    print_line(f"reinstated {access_key_id}; running workers accept it within three seconds")
    print_line(f"  {path}")
    _print_other_machines(config, f"run it on the other {_others(config)} too")


def _require_owner(config: Config) -> None:
    """Let whoever cannot act as the owner of the state directory learn that before anything is changed."""
    with acting_as_owner(Path(config.state.directory)):
        pass


def _mark(config: Config, store: KeyStore, access_key_id: str) -> Callable[[Worker], bool] | None:
    """Remember that a credential is retired, and return what tells whether a worker knows it; None if that failed.

    Before the first start there is no state directory, and :func:`record_event` says so.
    """
    state = Path(config.state.directory)
    if not state.exists():
        return lambda _: True
    try:
        with acting_as_owner(state):
            return holds(mark_retired(state, store.name, access_key_id, known_to_workers(state, RETIRED)))
    except StateUnusable as error:
        print_error(f"{access_key_id} is retired, but it is accepted again if its file comes back: {error}")
        return None


def _expect(config: Config, store: KeyStore, access_key_id: str, credential: Credential | None) -> None:
    """Let the workers know that the change has an event of its own. If that fails, it has two."""
    directory = Path(config.state.directory)
    if directory.exists():
        with suppress(StateUnusable), acting_as_owner(directory):
            KnownCredentials(directory).expect(store.name, access_key_id, credential)


def _record(config: Config, store: KeyStore, message: str, access_key_id: str, **values: Any) -> None:
    directory = Path(config.state.directory)
    with acting_as_owner(directory):
        record_event(directory, message, keystore=store.name, access_key_id=access_key_id, **values)


def _open(config_file: Path, keystore_name: str | None) -> tuple[Config, KeyStore]:
    """Load the configuration, and become the owner of the credentials before they are touched."""
    config = load_config(config_file)
    store = choose_keystore(config, keystore_name)
    become_owner(Path(store.credentials))
    require_configuration_of_root(config_file, Path(store.credentials))
    return config, store


def _rows(config: Config, store: KeyStore) -> list[_Row]:
    """Oldest first."""
    stored = sorted(read_credentials(Path(store.credentials)), key=lambda item: item.created)
    ids = tuple(item.credential.access_key_id for item in stored)
    used = _UsesOfService(Path(config.state.directory), store.name).last_used(ids)
    return [
        _Row(
            item.credential.access_key_id,
            item.created.isoformat(timespec="seconds"),
            _time(used.get(item.credential.access_key_id)),
            str(item.path),
        )
        for item in stored
    ]


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _others(config: Config) -> str:
    others = config.server.fleet_size - 1
    return "machine" if others == 1 else f"{others} machines"


def _print_other_machines(config: Config, instruction: str) -> None:
    if config.server.fleet_size > 1:
        print_line(f"this command changed this machine only: {instruction}")
