"""The Cedar policies of a key store: read from files, parsed, and validated against the schema."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final

from cedarpy import PolicySet, Schema, policies_to_pst, pst, validate_policies

from xksproxy.authorization.statements import Statement, StatementError, split_statements
from xksproxy.config.errors import ConfigError
from xksproxy.config.regular_file import FileRefused, read_regular_file, reason_of, text_of

POLICY_SUFFIX: Final = ".cedar"
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
    sources: "PolicySources"


PolicySources = tuple[tuple[Path, str], ...]
"""Policy files with their texts, in their order."""


class PolicyLibrary:
    """Compiles policies, and keeps what was compiled: equal text is compiled once. Any thread may use it.

    :meth:`take_staged` bounds what it keeps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[tuple[str, str], tuple[Policy, ...]] = {}
        """By the name of the file, without its directory, and its text."""
        self._trees: dict[str, pst.Template] = {}
        """By the text of one policy."""
        self._sets: dict[str, PolicySet] = {}
        """By the text of all policies of the set. They are valid."""
        self._staged: dict[tuple[str, ...], Policies] = {}
        self._used: set[object] = set()
        self._schema: Schema | None = None

    def load(self, paths: Iterable[str]) -> Policies:
        """Read policy files. A directory means all of its ``*.cedar`` files.

        Raises:
            ConfigError: a file cannot be read, parsed or validated, or has no policy. It lists every problem with file,
                line and policy.
        """
        problems: list[str] = []
        return self._compile(_sources(paths, problems), problems)

    def _compile(self, texts: Iterable[tuple[Path, str]], problems: list[str]) -> Policies:
        """Compile policies; ``problems`` are those of reading their files."""
        with self._lock:
            sources: list[tuple[Path, str]] = []
            policies: tuple[Policy, ...] = ()
            for source in texts:
                sources.append(source)
                policies += self._policies(*source, problems)
            problems += _ambiguous_ids(policies)
            schema = self._schema = self._schema or Schema.from_str(schema_text())
            text = "\n".join(policy.text for policy in policies)
            policy_set = self._sets.get(text)
            if policy_set is None:
                problems += _validation_problems(policies, text, schema)
            if problems:
                raise ConfigError(problems)
            if policy_set is None:
                policy_set = self._sets[text] = _policy_set(policies, text)
            self._used.add(text)
        return Policies(policies, policy_set, schema, tuple(sources))

    def stage(self, paths: Iterable[str]) -> None:
        """Load policies, and keep them for :meth:`take_staged`; it raises as :meth:`load` does."""
        names = tuple(paths)
        self._staged[names] = self.load(names)

    def stage_sources(self, paths: tuple[str, ...], sources: PolicySources) -> None:
        """The same with texts that were read before, instead of the files."""
        self._staged[paths] = self._compile(sources, [])

    def take_staged(self) -> dict[tuple[str, ...], Policies]:
        """The policies that were staged since the last call, by their paths. Forget what was not loaded since then."""
        with self._lock:
            staged, self._staged = self._staged, {}
            used, self._used = self._used, set()
            self._files = {key: policies for key, policies in self._files.items() if key in used}
            self._trees = {text: tree for text, tree in self._trees.items() if text in used}
            self._sets = {text: policy_set for text, policy_set in self._sets.items() if text in used}
        return staged

    def _policies(self, file: Path, text: str, problems: list[str]) -> tuple[Policy, ...]:
        key = file.name, text
        self._used.add(key)
        known = self._files.get(key)
        if known is None:
            before = len(problems)
            known = tuple(self._parsed(file, text, problems))
            if len(problems) == before:
                self._files[key] = known
        elif known[0].file != file:
            known = tuple(replace(policy, file=file) for policy in known)
        self._used.update(policy.text for policy in known)
        return known

    def _parsed(self, file: Path, text: str, problems: list[str]) -> Iterator[Policy]:
        for statement in (statements := list(split_statements(text))):
            try:
                tree = self._trees[statement.text] = self._trees.get(statement.text) or _parse(statement)
            except (ValueError, StatementError) as error:
                problems.append(f"{file}:{statement.line}: {error}")
            else:
                yield Policy(tree.annotations.get("id") or f"{file.name}:{statement.line}", file, statement, tree)
        if not statements:
            problems.append(f"{file}: the file has no policy; without a policy every request would be refused")


def load_policies(paths: Iterable[str]) -> Policies:
    """Read policy files; see :meth:`PolicyLibrary.load`."""
    return PolicyLibrary().load(paths)


def schema_text() -> str:
    """The Cedar schema that policies are validated against."""
    return resources.files(__package__).joinpath(_SCHEMA_FILE).read_text("utf-8")


def read_sources(paths: Iterable[str]) -> PolicySources:
    """Policy files with their texts, as :meth:`PolicyLibrary.load` reads them, without those that cannot be read."""
    return tuple(_sources(paths, []))


def _sources(paths: Iterable[str], problems: list[str]) -> Iterator[tuple[Path, str]]:
    for file in dict.fromkeys(_files(paths, problems)):
        try:
            yield file, text_of(file, read_regular_file(file).content)
        except FileRefused as error:
            problems.append(str(error))


def _files(paths: Iterable[str], problems: list[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        try:
            if not path.is_dir():
                yield path
                continue
            files = sorted(entry for entry in path.iterdir() if entry.suffix == POLICY_SUFFIX)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {reason_of(error)}")
            continue
        if not files:
            problems.append(
                f"{path}: the directory has no *{POLICY_SUFFIX} file; without a policy every request would be refused"
            )
        yield from files


def _parse(statement: Statement) -> pst.Template:
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
    return tree


def _validation_problems(policies: Sequence[Policy], text: str, schema: Schema) -> Iterator[str]:
    """Report what the schema does not allow. Cedar names the n-th policy ``policy<n>``, and reports in any order."""
    result = validate_policies(text, schema, release_gil=True)
    for number, policy in enumerate(policies):
        name = f"policy{number}"
        errors = sorted(error.error for error in result.errors if error.policy_id == name)
        if reasons := dict.fromkeys(error.replace(f"for policy `{name}`, ", "") for error in errors):
            yield f"{policy.place}: policy {policy.id}: {'; '.join(reasons)}"
    if not result.validation_passed and not any(error.policy_id for error in result.errors):
        yield f"the policies are not valid: {'; '.join(map(str, result.errors))}"


def _policy_set(policies: Sequence[Policy], text: str) -> PolicySet:
    """Parse all policies as one set. Cedar reports a policy by its number, so the numbers must be the same as ours."""
    policy_set = PolicySet.from_str(text, release_gil=True)
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
