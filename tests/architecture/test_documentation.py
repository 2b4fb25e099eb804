"""Checks of the documentation: links, commands, log messages, fields, metrics, and names of tests and modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from xksproxy.cli.main import cli
from xksproxy.request_stats import RequestStats
from xksproxy.server.record import RequestRecord
from xksproxy.spec import errors
from xksproxy.spec.messages import ReceivedMetadata
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.definitions import FAMILIES
from xksproxy.telemetry.series import Kind

_ROOT = Path(__file__).parents[2]
_SKIPPED = {"node_modules", "build", "dist"}
_PAGES = sorted(
    path
    for path in _ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in _SKIPPED for part in path.relative_to(_ROOT).parts)
)
_DOCS = _ROOT / "docs"
_NAMED_FROM = (
    _ROOT / "xksproxy",
    _ROOT / "tools" / "xksproxy_tools",
    _ROOT / "tools" / "xksproxy_tools" / "kms_emulator",
)


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def _without_fences(text: str) -> str:
    return re.sub(r"(?ms)^ *```.*?^ *```", "", text)


def _prose(path: Path) -> str:
    """A page without code, in which brackets are no links."""
    return re.sub(r"`[^`\n]*`", "", _without_fences(path.read_text("utf-8")))


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    anchors: set[str] = set()
    for heading in re.findall(r"(?m)^#+ (.*)$", _without_fences(path.read_text("utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = sum(1 for known in anchors if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", known))
        anchors.add(f"{slug}-{number}" if number else slug)
    return anchors


# --- Links


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)

    assert broken == []


def test_every_page_of_the_documentation_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    waiting = [_ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        files = re.findall(r"\]\(([^)\s#:]+\.md)(?:#[^)]*)?\)", _prose(page))
        waiting += [(page.parent / file).resolve() for file in files]

    assert [_name(page) for page in _DOCS.glob("*.md") if page not in reached] == []


# --- Commands


def _commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"{name} is listed and cannot be loaded"
            yield from _commands(child, (*path, name))
    else:
        yield path


def _named_in_the_readme() -> set[str]:
    """The commands of its table, where ``xksproxy keys list`, `show`` stands for two."""
    table = (_ROOT / "README.md").read_text("utf-8").partition("## Commands\n")[2].partition("\n## ")[0]
    names = set()
    for cell in re.findall(r"(?m)^\| (`xksproxy [^|]*) \|", table):
        first, *others = re.findall(r"`([^`]+)`", cell)
        *group, _ = first.split()
        names |= {first, *(" ".join([*group, other]) for other in others)}
    return names


def test_every_command_is_in_the_table_of_the_readme() -> None:
    commands = {f"xksproxy {' '.join(path)}" for path in _commands()}

    assert len(commands) > 1
    assert commands - _named_in_the_readme() == set()


@pytest.mark.parametrize("page", _PAGES, ids=_name)
def test_no_page_names_a_command_that_does_not_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    used = re.findall(r"(?m)(?:`|^ *(?:\$ |[^`\n]*\| )?)xksproxy ([a-z][a-z-]*)((?: [a-z][a-z-]*)?)(?=[ `\n])", text)
    known = {path[0] for path in _commands()}
    known_pairs = {path[:2] for path in _commands() if len(path) > 1}
    groups = {first for first, _ in known_pairs}

    unknown = [
        f"{first}{second}"
        for first, second in used
        if first not in known or (first in groups and second and (first, second.strip()) not in known_pairs)
    ]

    assert unknown == []


# --- What operators see


def _sources() -> Iterator[Path]:
    """The modules of both distributions."""
    yield from (_ROOT / "xksproxy").rglob("*.py")
    yield from (_ROOT / "tools" / "xksproxy_tools").rglob("*.py")


def _log_messages() -> set[tuple[str, str]]:
    """Each message with the page that explains it."""
    messages = set()
    for path in _sources():
        page = "kms-emulator.md" if "kms_emulator" in path.parts else "troubleshooting.md"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
            ):
                message = node.args[0]
                assert isinstance(message, ast.Constant), f"{_name(path)}:{node.lineno}: the message is not a constant"
                messages.add((page, str(message.value)))
    return messages


def test_every_log_message_is_explained() -> None:
    sections = {
        page: (_DOCS / page).read_text("utf-8").partition("## By log message")[2]
        for page in ("kms-emulator.md", "troubleshooting.md")
    }
    messages = _log_messages()

    assert len(messages) > 1
    assert {(page, message) for page, message in messages if f"`{message}`" not in sections[page]} == set()


def test_every_error_of_the_api_is_explained() -> None:
    names = {error.__name__ for error in errors.XksError.__subclasses__()} - {"MethodNotAllowed"}

    assert {name.lower() for name in names} <= _anchors(_DOCS / "troubleshooting.md")


def test_every_field_of_an_audit_line_is_explained() -> None:
    stats = RequestStats(queue_seconds=1, hsm_seconds=1, hsms=["a"], key_version=1, authorization={"decision": "allow"})
    metadata = ReceivedMetadata({"a": "a"}, 1)
    record = RequestRecord("a", 0.0, "a", "a", Operation.ENCRYPT, "a", "a", "a", metadata, stats, 400)
    record.vpc_endpoint_id = "a"
    record.refuse(errors.InternalException("a", detail="a"))
    section = (_DOCS / "operations.md").read_text("utf-8").partition("## Audit log")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"(?m)^\| (`[^|]*) \|", section))))

    own = {"time", "message", "pid", "since", "block_reason", "count", "end", "chain", "number", "mac"}
    assert {*record.line(1.0), *own} <= explained


def _metric_names() -> set[str]:
    """Those that workers count, and, from the source, those that are read at each scrape, which would need a token."""
    counted = {f"{family.name}_total" if family.kind is Kind.COUNTER else family.name for family in FAMILIES}
    source = (_ROOT / "xksproxy" / "telemetry" / "collectors.py").read_text("utf-8")
    return counted | set(re.findall(r'"(xksproxy_\w+)"', source))


def test_every_metric_is_explained() -> None:
    section = (_DOCS / "operations.md").read_text("utf-8").partition("### Metrics")[2].partition("\n## ")[0]

    assert _metric_names() == set(re.findall(r"(?m)^\| `(xksproxy_\w+)`", section))


def test_the_security_model_names_tests_that_exist() -> None:
    tests = "\n".join(path.read_text("utf-8") for path in (_ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", (_DOCS / "security.md").read_text("utf-8")))

    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


@pytest.mark.parametrize("page", ["architecture.md", "security.md"])
def test_a_page_names_modules_that_exist(page: str) -> None:
    named = set(re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.[chpy]+)`", (_DOCS / page).read_text("utf-8")))

    assert named
    assert [name for name in sorted(named) if not any((folder / name).is_file() for folder in _NAMED_FROM)] == []
