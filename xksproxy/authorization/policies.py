"""The Cedar policies of a key store: read from files, parsed, and validated against the schema."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from cedarpy import PolicySet, Schema, policies_to_pst, pst, validate_policies

from xksproxy.authorization.statements import Statement, StatementError, split_statements
from xksproxy.config.errors import ConfigError
from xksproxy.config.regular_file import FileRefused, read_regular_file, reason_of, text_of

_SUFFIX: Final = ".cedar"
_SCHEMA_FILE: Final = "schema.cedarschema"


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy and its place in a file."""

    id: str
    """Its ``@id``, or ``FILE:LINE`` without one."""

    file: Path
    statement: Statement
    tree: pst.Template

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.statement.line}"

    @property
    def text(self) -> str:
        """Its source text in the file."""
        return self.statement.text


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies of a key store in the order in which Cedar numbers them, and the parsed set of them."""

    policies: tuple[Policy, ...]
    policy_set: PolicySet
    schema: Schema


def load_policies(paths: Iterable[str]) -> Policies:
    """Read policy files. A directory means all of its ``*.cedar`` files.

    Raises:
        ConfigError: a file cannot be read, parsed or validated, or has no policy. It lists every problem with file,
            line and policy.
    """
    problems: list[str] = []
    policies = [policy for file in dict.fromkeys(_files(paths, problems)) for policy in _read(file, problems)]
    problems += _ambiguous_ids(policies)
    schema = Schema.from_str(schema_text())
    text = "\n".join(policy.text for policy in policies)
    problems += _validation_problems(policies, text, schema)
    if problems:
        raise ConfigError(problems)
    return Policies(tuple(policies), _policy_set(policies, text), schema)


def schema_text() -> str:
    """The Cedar schema that policies are validated against."""
    return resources.files(__package__).joinpath(_SCHEMA_FILE).read_text("utf-8")


def _files(paths: Iterable[str], problems: list[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        try:
            if not path.is_dir():
                yield path
                continue
            files = sorted(entry for entry in path.iterdir() if entry.suffix == _SUFFIX)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {reason_of(error)}")
            continue
        if not files:
            problems.append(
                f"{path}: the directory has no *{_SUFFIX} file; without a policy every request would be refused"
            )
        yield from files


def _read(file: Path, problems: list[str]) -> list[Policy]:
    try:
        text = text_of(file, read_regular_file(file).content)
    except FileRefused as error:
        problems.append(str(error))
        return []
    policies: list[Policy] = []
    for statement in (statements := list(split_statements(text))):
        try:
            policies.append(_parse(file, statement))
        except (ValueError, StatementError) as error:
            problems.append(f"{file}:{statement.line}: {error}")
    if not statements:
        problems.append(f"{file}: the file has no policy; without a policy every request would be refused")
    return policies


def _parse(file: Path, statement: Statement) -> Policy:
    """Parse one policy.

    Raises:
        StatementError: the policy is a template or exceeds the limits.
        ValueError: Cedar cannot parse it.
    """
    statement.require_within_limits()
    parsed = policies_to_pst(statement.text)
    if parsed.templates:
        raise StatementError("templates are not supported; replace ?principal or ?resource with a name")
    (tree,) = parsed.static_policies.values()
    return Policy(tree.annotations.get("id") or f"{file.name}:{statement.line}", file, statement, tree)


def _validation_problems(policies: Sequence[Policy], text: str, schema: Schema) -> Iterator[str]:
    """Report what the schema does not allow. Cedar names the n-th policy ``policy<n>``."""
    result = validate_policies(text, schema)
    for number, policy in enumerate(policies):
        name = f"policy{number}"
        errors = (error.error for error in result.errors if error.policy_id == name)
        if reasons := dict.fromkeys(error.replace(f"for policy `{name}`, ", "") for error in errors):
            yield f"{policy.place}: policy {policy.id}: {'; '.join(reasons)}"
    if not result.validation_passed and not any(error.policy_id for error in result.errors):
        yield f"the policies are not valid: {'; '.join(map(str, result.errors))}"


def _policy_set(policies: Sequence[Policy], text: str) -> PolicySet:
    """Parse all policies as one set. Cedar reports a policy by its number, so the numbers must be the same as ours."""
    policy_set = PolicySet.from_str(text)
    if len(policy_set) != len(policies):
        raise ConfigError(
            [f"{policies[0].file}: Cedar finds {len(policy_set)} policies in all files, expected {len(policies)}"]
        )
    return policy_set


def _ambiguous_ids(policies: Iterable[Policy]) -> Iterator[str]:
    """Report ids that two policies have: the log could not distinguish them."""
    first: dict[str, Policy] = {}
    for policy in policies:
        if (other := first.setdefault(policy.id, policy)) is not policy:
            yield f"{policy.place}: the policy in {other.place} has the same id {policy.id}; give it another @id"
