"""The command as a whole: its exit codes, its help, and that it never shows a traceback."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from xksproxy import __version__
from xksproxy.cli.main import cli


def _commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every subcommand, including groups, with its full name."""
    if path:
        yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child
            yield from _commands(child, (*path, name))


_PATHS = [path for path, _ in _commands()]


def _examples(help_text: str) -> list[str]:
    """The command lines below "Example:", with pipes split."""
    _, _, after = help_text.partition("Example:\n")
    block = after.partition("\n\n")[0]
    return [part.strip() for line in block.splitlines() for part in line.split("|")]


@pytest.mark.parametrize("path", _PATHS, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "--help"])

    assert done.exit_code == 0
    examples = _examples(done.stdout)
    assert any(example.startswith(f"xksproxy {' '.join(path)}") for example in examples), done.stdout


@pytest.mark.parametrize("path", _PATHS, ids=" ".join)
def test_every_example_is_a_command_line_that_the_command_takes(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The variables of client.env, and the one file that an example reads while it is parsed.
    for name in ("XKSPROXY_CONFIG", "XKS_PROXY_HOST", "SIGV4_ACCESS_KEY_ID", "KEY_ID"):
        monkeypatch.setenv(name, "value")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answer.json").write_text("{}")
    commands = dict(_commands())
    for example in _examples(CliRunner().invoke(cli, [*path, "--help"]).stdout):
        program, *words = shlex.split(example)
        if program == "source":
            continue
        assert program == "xksproxy", example
        depth = max(length for length in range(1, len(words) + 1) if tuple(words[:length]) in commands)
        command = commands[tuple(words[:depth])]
        assert not isinstance(command, click.Group) or command.invoke_without_command, example
        # click keeps the help option that a command is first given, for the rest of the process.
        with command.make_context("xksproxy", words[depth:], **cli.context_settings) as context:
            assert context.args == []


@pytest.mark.parametrize("path", [(), *_PATHS], ids=" ".join)
def test_help_does_not_show_the_values_of_variables(path: tuple[str, ...]) -> None:
    secret = {"SIGV4_SECRET_ACCESS_KEY": "e5d1-secret", "SIGV4_ACCESS_KEY_ID": "e5d1-id", "KEY_ID": "e5d1-key"}

    assert "e5d1" not in CliRunner(env=secret).invoke(cli, [*path, "--help"]).stdout


@pytest.mark.parametrize("path", [(), ("keys", "list")], ids=" ".join)
def test_the_short_option_shows_the_help(path: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*path, "-h"])

    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: ")


def test_the_first_help_lists_every_command(run: Callable[..., Any]) -> None:
    done = run("--help")

    assert done.code == 0
    unwrapped = "".join(done.text.split())
    for (name, *rest), command in _commands():
        summary = f"{name} {command.get_short_help_str(500)}"
        assert rest or "".join(summary.split()) in unwrapped, summary


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("--nonsense",),
        ("version", "--nonsense"),
        ("version", "more"),
        ("serve",),
        ("check-config",),
        ("keys", "list"),
        ("keys", "show"),
        ("keys", "show", "demo-key"),
        ("keys", "create", "--config", "x"),
        ("keys", "create", "--config", "x", "key", "--usage", "sometimes"),
        ("call", "health"),
        ("call", "metadata", "--host", "localhost:1", "--access-key-id", "A"),
        ("call", "nonsense"),
        ("dev", "--port", "0"),
        ("dev", "--port", "65536"),
        ("dev", "--port", "https"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2_and_shows_the_usage(
    run: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)

    assert (done.code, done.out) == (2, b"")
    assert done.err.startswith("Usage: ")
    assert "\nError: " in done.err


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "xksproxy"], [str(Path(sys.executable).with_name("xksproxy"))]]
)
def test_the_module_and_the_installed_command_are_the_same(program: list[str]) -> None:
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)

    assert done.stdout == f"xksproxy, version {__version__}\n"


@pytest.mark.parametrize(
    "command",
    [
        ("keys", "show"),
        ("keys", "rotate"),
        ("credentials", "retire"),
        ("block", "--key"),
        ("policy", "explain", "--key"),
        ("call", "metadata", "--host", "h", "--access-key-id", "A", "--key"),
        ("call", "health", "--access-key-id", "A", "--host"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("text", "problem"), [("arn:aws:kms:x:1:key/2", "it is an ARN"), ("id ", "a blank"), ("http://h", "it is a URL")]
)
def test_a_pasted_url_arn_or_path_is_named(
    tmp_path: Path, command: tuple[str, ...], text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XKSPROXY_CONFIG", str(tmp_path / "x.toml"))

    done = CliRunner().invoke(cli, [*command, text])

    assert done.exit_code == 2
    assert problem in done.stderr


def test_a_configuration_names_the_same_files_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "schlüssel").mkdir(0o700)
    config = tmp_path / "xksproxy.toml"
    config.write_text('[state]\ndirectory = "schlüssel"\n', encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "xksproxy", "block", "--all", "--config", config],
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "schlüssel" / "blocks.json").is_file()
