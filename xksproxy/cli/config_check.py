"""All checks of a configuration that need no HSM."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from xksproxy.authorization.findings import findings
from xksproxy.authorization.policies import PolicyLibrary, load_policies
from xksproxy.cli.config_option import load_as_owner
from xksproxy.config.access_checks import access_problems
from xksproxy.config.certificate_checks import certificate_problems
from xksproxy.config.check import SecretsToCheck, check_config
from xksproxy.config.errors import ConfigError
from xksproxy.config.held_secrets import hold_secrets
from xksproxy.config.load import load_config
from xksproxy.config.model import Config
from xksproxy.config.secret import SecretError
from xksproxy.config.service_user import ServiceUser
from xksproxy.hsm.pkcs11.presets import quirks_of
from xksproxy.keystore.key_map import KeyMap
from xksproxy.keystore.versions import version_problems
from xksproxy.server.accepted import UsableFiles
from xksproxy.server.tls_contents import TlsContents
from xksproxy.state.state_file import StateFile, StateUnusable
from xksproxy.state.versions import version_table


def load_checked(path: Path, *, serving: bool = False, policies: PolicyLibrary | None = None) -> Config:
    """Load a configuration, become the owner of its state directory, and check all that needs neither HSM nor secret.

    ``serving`` means that this process is the service: it stays the user that it is, and its secrets are read now. A
    command reads a PIN or the audit key only when it needs that one. ``policies`` keeps the compiled policies.

    Raises:
        ConfigError: the configuration cannot be used. It lists every problem.
        WrongUser: this user is neither root nor the owner.
    """
    config = load_config(path) if serving else load_as_owner(path)
    if problems := problems_of(path, config, "all" if serving else "none", serving=serving, policies=policies):
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    if not serving:
        return config
    try:
        return hold_secrets(config)
    except SecretError as error:
        raise ConfigError([f"{path}: {error}"]) from None


def problems_of(
    config_file: Path,
    config: Config,
    secrets: SecretsToCheck,
    *,
    serving: bool = False,
    policies: PolicyLibrary | None = None,
) -> list[str]:
    """Return why a configuration cannot be used: everything that can be checked without an HSM."""
    user = ServiceUser.current() if serving else ServiceUser.of_state_directory(Path(config.state.directory))
    problems = [
        # A secret that others can reach is found by the checks of both.
        *dict.fromkeys((*check_config(config, secrets), *access_problems(config_file, config, user))),
        *_quirk_problems(config),
        *_policy_problems(config, policies or PolicyLibrary()),
        *(_output_problems(config) if serving else ()),
    ]
    problems += _version_problems(config, problems)
    if any(problem.startswith("server.tls") for problem in problems):
        return problems
    try:
        UsableFiles.of(config, {}, TlsContents.read(config.server.tls))  # as the service does
    except ConfigError as error:
        # OpenSSL reports only the function that failed. The checks of the certificates report why.
        return [*problems, *(list(certificate_problems(config.server.tls)) or error.problems)]
    return problems


def _output_problems(config: Config) -> Iterator[str]:
    """Report an audit log that would be lost in silence: the interpreter found standard output closed."""
    if config.audit.enabled and config.audit.file is None and sys.__stdout__ is None:
        yield "audit.file: the audit log goes to standard output, which is closed; set audit.file, or open it"


def _quirk_problems(config: Config) -> Iterator[str]:
    for index, hsm in enumerate(config.hsm):
        try:
            quirks_of(hsm)
        except ValueError as error:
            yield f"hsm[{index}]: {error}"


def _version_problems(config: Config, problems: Sequence[str]) -> Iterator[str]:
    """Report what does not fit the recorded versions. ``problems`` are those of the configuration alone."""
    state = Path(config.state.directory)
    for index, store in enumerate(config.keystore):
        if any(problem.startswith((f"keystore[{index}].name", f"keystore[{index}].keys")) for problem in problems):
            continue  # no file and no key may have such a name
        records = version_table(state, store.name)
        records.expect_missing()
        # With an unreadable record, workers refuse Encrypt and still serve Decrypt. So this is not a problem here.
        with suppress(StateUnusable):
            yield from version_problems(f"keystore[{index}]", KeyMap(store.keys).named_keys(), records)


def _policy_problems(config: Config, policies: PolicyLibrary) -> Iterator[str]:
    for index, store in enumerate(config.keystore):
        if store.policies is None and store.policy_mode == "audit":
            yield f"keystore[{index}].policy_mode: audit needs policies; set policies or remove policy_mode"
        if store.policies is None:
            continue
        try:
            policies.stage(store.policies)
        except ConfigError as error:
            yield from (f"keystore[{index}].policies: {problem}" for problem in error.problems)


def witness_warnings(config: Config) -> Iterator[str]:
    """Report a witness of the state directory that no token can be, by the presets."""
    if config.state.witness == "token" and not any(quirks_of(hsm).data_objects for hsm in config.hsm):
        yield 'state.witness: "token" has no effect: by their presets, no HSM keeps data objects'


def state_warnings(config: Config) -> Iterator[str]:
    """Report what the state directory has of a key store that the configuration does not name, as after a new name."""
    directory, names = Path(config.state.directory), {store.name for store in config.keystore}
    for path in sorted([*directory.glob("blocks-*.json"), *directory.glob("versions-*.json")]):
        kind, _, name = path.stem.partition("-")
        with suppress(StateUnusable):
            if name not in names and (StateFile(directory, path.name).read() or {}).get("entries"):
                yield (
                    f"state.directory: {path.name} is of a key store {name}, which the configuration does not name; if"
                    f" it has another name now, its {kind} are not in force"
                )


def policy_warnings(config: Config) -> Iterator[str]:
    """Report probable mistakes in the policies of a checked configuration. They do not make it unusable."""
    for index, store in enumerate(config.keystore):
        if store.policies is not None:
            for finding in findings(load_policies(store.policies), KeyMap(store.keys).exposes):
                yield f"keystore[{index}].policies: {finding}"
