"""Checks of a loaded configuration and of the files that it names. All problems are reported together."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

from xksproxy.config.credential_checks import credential_problems
from xksproxy.config.errors import ConfigError
from xksproxy.config.hsm_checks import hsm_problems, shared_module_problems, shared_token_problems
from xksproxy.config.key_checks import key_problems
from xksproxy.config.listener_checks import Listener, listener_problems
from xksproxy.config.model import ALL_STORES, ANY_STORE, Audit, Config, Hsm, KeyStore, ProxyProtocol, Tls
from xksproxy.config.networks import network_problems
from xksproxy.config.pins import read_pin
from xksproxy.config.regular_file import DEVICE, is_regular_file, kind_of
from xksproxy.config.secret import Secret, SecretError, SecretOfService, access_problem, read_secret
from xksproxy.config.service_user import ServiceUser
from xksproxy.config.tracing_checks import tracing_problems
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.pasted import host_in, pasted_prefix_problem, pasted_problem
from xksproxy.spec.uri import prefix_problem

_HOST_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*\.?")
LISTENER_OFF: Final = "off"
_MINIMUM_KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

SecretsToCheck = Literal["all", "readable here", "none"]
"""Which PINs and audit keys are read by a check: all, as the service needs; those that are no credential of a service
whose process this is not; or none."""


def check_config(config: Config, secrets: SecretsToCheck = "all") -> list[str]:
    """The problems of a loaded configuration. Each starts with the path of the key."""
    return [
        *_secret_problems(config, secrets),
        *listener_problems(listeners_of(config)),
        *_proxy_protocol_problems(config.server.proxy_protocol),
        *_host_problems(config.admin.hosts),
        *_readiness_problems(config),
        *_audit_problems(config.audit),
        *_witness_problems(config),
        *tracing_problems(config.tracing),
        *_tls_problems(config.server.tls),
        *credential_problems(config.keystore),
        *_duplicates("hsm", "id", (hsm.id for hsm in config.hsm)),
        *_duplicates("keystore", "name", (store.name for store in config.keystore)),
        *_duplicates("keystore", "uri_path_prefix", (store.uri_path_prefix for store in config.keystore)),
        *(problem for index, hsm in enumerate(config.hsm) for problem in _hsm_problems(f"hsm[{index}]", hsm)),
        *_state_problems(Path(config.state.directory)),
        *shared_module_problems(config.hsm),
        *(() if secrets == "none" else shared_token_problems(config.hsm)),
        *_encryption_limit_problems(config),
        *(
            problem
            for index, store in enumerate(config.keystore)
            for problem in _key_store_problems(f"keystore[{index}]", store, {hsm.id for hsm in config.hsm})
        ),
    ]


def has_admin(config: Config) -> bool:
    """Whether the admin listener is on."""
    return config.admin.listen != LISTENER_OFF


def listeners_of(config: Config) -> tuple[Listener, ...]:
    """The addresses to listen on."""
    wanted = (
        ("server.listen", config.server.listen),
        ("health.listen", config.health.listen),
        ("admin.listen", config.admin.listen if has_admin(config) else None),
    )
    return tuple(Listener(at, address) for at, address in wanted if address is not None)


def secrets_of_service(config: Config) -> Iterator[str]:
    """The secrets that only the service can read, for a command beside it. Each starts with the path of the key."""
    for at, read in _secrets(config):
        try:
            read()
        except SecretOfService as error:
            yield f"{at}: not readable here, so it was not checked: {error}"
        except SecretError:  # which check_config reports
            continue


def read_audit_key(audit: Audit) -> Secret | None:
    """The HMAC key of the audit log, or None if its lines are not chained.

    Raises:
        SecretError: the key cannot be read.
    """
    return read_secret(audit.key) if audit.chain and audit.key is not None else None


def require_usable_files(config: Config, load: Callable[[str], Sequence[Credential]]) -> None:
    """Check the files that can change while the configuration does not: credentials and TLS.

    ``load`` returns the credentials of a directory, and raises as :func:`load_credentials` does.

    Raises:
        ConfigError: a file cannot be used. It has all problems.
    """
    if problems := [*_tls_problems(config.server.tls), *credential_problems(config.keystore, load)]:
        raise ConfigError(problems)


def _proxy_protocol_problems(settings: ProxyProtocol | None) -> Iterator[str]:
    if settings is not None:
        yield from network_problems("server.proxy_protocol.from", settings.from_)


def _readiness_problems(config: Config) -> Iterator[str]:
    when, names = config.health.ready_when, {store.name for store in config.keystore}
    if isinstance(when, str):
        if when not in (ANY_STORE, ALL_STORES):
            yield f'health.ready_when: "{when}": expected "any", "all", or a list of names of key stores'
        return
    if not when:
        yield 'health.ready_when: it is empty: expected "any", "all", or names of key stores'
    for index, name in enumerate(when):
        if name not in names:
            found = ", ".join(sorted(names))
            yield f'health.ready_when[{index}]: no key store has the name "{name}"; the names are {found}'


def _host_problems(hosts: Iterable[str]) -> Iterator[str]:
    for index, host in enumerate(hosts):
        if not _HOST_NAME.fullmatch(host):
            meant = host_in(host).rpartition(":")[0] or host_in(host)
            hint = f'; write "{meant}"' if _HOST_NAME.fullmatch(meant) else ""
            expected = "expected a host name without port, such as proxy-1.example.com"
            yield f"admin.hosts[{index}]: {expected}, got {host}{hint}"


def _audit_problems(audit: Audit) -> Iterator[str]:
    if audit.file is not None and not os.access(Path(audit.file).parent, os.W_OK | os.X_OK):
        yield f"audit.file: {Path(audit.file).parent} is not a directory that the proxy can write"
    if audit.file is not None and (kind := kind_of(Path(audit.file))) and kind != DEVICE:
        yield f"audit.file: {audit.file} is {kind}; expected a regular file, or no audit.file for standard output"
    if audit.sync and (audit.file is None or not audit.enabled or audit.when_full != "refuse"):
        yield 'audit.sync: it needs audit.file, audit.enabled = true and audit.when_full = "refuse"'
    elif audit.sync and audit.file is not None and kind_of(Path(audit.file)) == DEVICE:
        yield f"audit.sync: {audit.file} is a device, which cannot be synced; expected a regular file"
    if audit.chain and audit.key is None:
        yield "audit.key: missing; chain = true needs an HMAC key"
    if audit.chain and audit.format != "json":
        yield "audit.format: chain = true needs the format json"


def _witness_problems(config: Config) -> Iterator[str]:
    if config.state.witness == "audit" and (config.audit.file is None or not config.audit.enabled):
        yield 'state.witness: "audit" needs audit.file and audit.enabled = true'


def _secrets(config: Config) -> Iterator[tuple[str, Callable[[], Secret | None]]]:
    """The path of the key of each PIN and of the audit key, and what reads it."""
    yield "audit.key", partial(read_audit_key, config.audit)
    for index, hsm in enumerate(config.hsm):
        yield f"hsm[{index}].pin", partial(read_pin, hsm)


def _secret_problems(config: Config, secrets: SecretsToCheck) -> Iterator[str]:
    for at, read in _secrets(config) if secrets != "none" else ():
        try:
            secret = read()
        except SecretOfService as error:
            if secrets == "all":
                yield f"{at}: {error}"
        except SecretError as error:
            yield f"{at}: {error}"
        else:
            if at == "audit.key" and secret is not None and len(secret.reveal().encode()) < _MINIMUM_KEY_BYTES:
                yield f"{at}: the key has fewer than {_MINIMUM_KEY_BYTES} bytes; make a key with: openssl rand -hex 32"


def _tls_problems(tls: Tls) -> Iterator[str]:
    for key, path in (("certificate", tls.certificate), ("private_key", tls.private_key), ("client_ca", tls.client_ca)):
        if path is not None:
            yield from _file_problems(f"server.tls.{key}", path)
    if is_regular_file(tls.private_key):
        file, user = Path(tls.private_key), ServiceUser.current()
        if problem := access_problem(file, file.stat(), None if user.uid == 0 else user):
            yield f"server.tls.private_key: {tls.private_key}: {problem}"
    if (tls.client_ca is None) != (not tls.client_names):
        yield "server.tls: client_ca and client_names go together; set both or neither"
    for index, name in enumerate(tls.client_names):
        problem = pasted_problem(name)
        if name.upper().startswith("CN="):
            problem = f'it is compared with the common name alone; write "{name[3:].partition(",")[0]}"'
        elif "*" in name:
            problem = "it is compared as it is, without wildcards; expected a whole common name"
        if problem:
            yield f"server.tls.client_names[{index}]: {name}: {problem}"


def _file_problems(at: str, path: str) -> Iterator[str]:
    if is_regular_file(path):
        return
    if kind := kind_of(Path(path)):
        yield f"{at}: {path} is {kind}; expected a regular file"
        return
    try:
        Path(path).stat()
    except PermissionError as error:  # of a directory above it
        yield f"{at}: {path}: {error.strerror}; user {os.geteuid()} must be able to read it"
    except (OSError, ValueError):
        hint = "; ~ and variables are not replaced" if re.search(r"/~|/\$", path) else _pasted_hint(Path(path).name)
        yield f"{at}: no file {path}{hint}"


def _pasted_hint(text: str) -> str:
    problem = pasted_problem(text)
    return f"; {problem}" if problem else ""


def _state_problems(directory: Path) -> Iterator[str]:
    # Path.exists() raises if a directory above may not be searched.
    exists = os.path.exists(directory)  # noqa: PTH110
    existing = directory if exists else directory.parent
    if exists and not directory.is_dir():
        yield f"state.directory: {directory} is not a directory"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"state.directory: {directory} cannot be written"


def _duplicates(table: str, key: str, values: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield f"{table}[{index}].{key}: {value or '(empty)'} is used twice"
        seen.add(value)


def _hsm_problems(at: str, hsm: Hsm) -> Iterator[str]:
    yield from _file_problems(f"{at}.module", hsm.module)
    yield from hsm_problems(at, hsm)


def _encryption_limit_problems(config: Config) -> Iterator[str]:
    """Each machine of the fleet gets an equal part of maximum_encryptions, which must be at least one."""
    for index, store in enumerate(config.keystore):
        for key_index, key in enumerate(store.keys):
            if key.maximum_encryptions < config.server.fleet_size:
                yield (
                    f"keystore[{index}].keys[{key_index}].maximum_encryptions: {key.maximum_encryptions} is less than"
                    f" server.fleet_size {config.server.fleet_size}"
                )


def _key_store_problems(at: str, store: KeyStore, hsm_ids: set[str]) -> Iterator[str]:
    if not _NAME.fullmatch(store.name):
        hint = _pasted_hint(store.name)
        yield f"{at}.name: expected 1 to 64 characters of A-Z a-z 0-9 - . _, got {store.name}{hint}"
    problems = (prefix_problem(store.uri_path_prefix), pasted_prefix_problem(store.uri_path_prefix))
    if any(problems):
        yield f"{at}.uri_path_prefix: {'; '.join(filter(None, problems))}"
    for hsm_id in store.hsms:
        if hsm_id not in hsm_ids:
            yield f"{at}.hsms: no [[hsm]] has the id {hsm_id}; the ids are {', '.join(sorted(hsm_ids))}"
    if store.burst is not None and store.requests_per_second is None:
        yield f"{at}.burst: requests_per_second is not set; set both or neither"
    yield from _duplicates(f"{at}.keys", "id", (key.id for key in store.keys))
    yield from key_problems(f"{at}.keys", store)
