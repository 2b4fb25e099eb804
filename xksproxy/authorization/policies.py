"""The Cedar policies of a key store, read from files, parsed once and validated against the schema."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from cedarpy import PolicySet, Schema, policies_to_pst, pst, validate_policies

from xksproxy.authorization.statements import Statement, StatementError, split_statements
from xksproxy.config.errors import ConfigError

_SUFFIX: Final = ".cedar"
_SCHEMA_FILE: Final = "schema.cedarschema"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy and where it stands."""

    id: str
    """Its ``@id``, or ``FILE:LINE`` where it has none."""

    file: Path
    statement: Statement
    tree: pst.Template

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.statement.line}"

    @property
    def text(self) -> str:
        """As it stands in the file."""
        return self.statement.text


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies of a key store, in the order in which Cedar numbers them, and the parsed whole."""

    policies: tuple[Policy, ...]
    policy_set: PolicySet
    schema: Schema


def load_policies(paths: Iterable[str]) -> Policies:
    """Read policy files; a directory stands for its ``*.cedar``.

    Raises:
        ConfigError: something cannot be read, parsed or validated, or there is no policy at all; every problem found,
            with file, line and policy.
    """
    problems: list[str] = []
    policies = [policy for file in dict.fromkeys(_files(paths, problems)) for policy in _read(file, problems)]
    problems += _ambiguous_ids(policies)
    schema = Schema.from_str(schema_text())
    text = "\n".join(policy.text for policy in policies)
    problems += _invalid(policies, text, schema)
    if problems:
        raise ConfigError(problems)
    return Policies(tuple(policies), _whole(policies, text), schema)


def schema_text() -> str:
    """The Cedar schema that policies are validated against."""
    return resources.files(__package__).joinpath(_SCHEMA_FILE).read_text("utf-8")


def _files(paths: Iterable[str], problems: list[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        try:
            if not path.is_dir():
                yield path
                continue
            found = sorted(entry for entry in path.iterdir() if entry.suffix == _SUFFIX)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {_reason(error)}")
            continue
        if not found:
            problems.append(f"{path}: the directory has no *{_SUFFIX}; without a policy everything would be refused")
        yield from found


def _read(file: Path, problems: list[str]) -> list[Policy]:
    try:
        # A pipe would be waited for.
        text = file.read_bytes().decode("utf-8") if file.is_file() or not file.exists() else ""
    except (OSError, ValueError) as error:
        problems.append(f"{file}: {_reason(error)}")
        return []
    policies: list[Policy] = []
    for statement in (statements := list(split_statements(text))):
        try:
            policies.append(_parse(file, statement))
        except (ValueError, StatementError) as error:
            problems.append(f"{file}:{statement.line}: {error}")
    if not statements:
        problems.append(f"{file}: no policy in it; without one everything would be refused")
    return policies


def _parse(file: Path, statement: Statement) -> Policy:
    """One policy.

    Raises:
        StatementError: it cannot be used.
        ValueError: Cedar cannot parse it.
    """
    statement.require_harmless()
    parsed = policies_to_pst(statement.text)
    if parsed.templates:
        raise StatementError("a template, with ?principal or ?resource, applies to nobody here")
    (tree,) = parsed.static_policies.values()
    return Policy(tree.annotations.get("id") or f"{file.name}:{statement.line}", file, statement, tree)


def _invalid(policies: Sequence[Policy], text: str, schema: Schema) -> Iterator[str]:
    """What the schema does not allow. Cedar names the n-th policy ``policy<n>``."""
    result = validate_policies(text, schema)
    for number, policy in enumerate(policies):
        name = f"policy{number}"
        reasons = (error.error for error in result.errors if error.policy_id == name)
        if words := dict.fromkeys(reason.replace(f"for policy `{name}`, ", "") for reason in reasons):
            yield f"{policy.place}: policy {policy.id}: {'; '.join(words)}"
    if not result.validation_passed and not any(error.policy_id for error in result.errors):
        yield f"the policies are not valid: {'; '.join(map(str, result.errors))}"


def _whole(policies: Sequence[Policy], text: str) -> PolicySet:
    """One set of them all, which has to count as we do: its numbers are how Cedar says which policy decided."""
    policy_set = PolicySet.from_str(text)
    if len(policy_set) != len(policies):
        raise ConfigError([f"{policies[0].file}: Cedar finds another number of policies than there are"])
    return policy_set


def _ambiguous_ids(policies: Iterable[Policy]) -> Iterator[str]:
    """Two policies of one name could not be told apart in the log."""
    first: dict[str, Policy] = {}
    for policy in policies:
        if (other := first.setdefault(policy.id, policy)) is not policy:
            yield f"{policy.place}: the id {policy.id} is that of the policy in {other.place} too; give it another @id"


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
