"""Each console block of the documentation is run, in the order of its page, and shows what its commands write."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from console_blocks import Block, blocks_of
from console_session import ConsoleSession
from programs import forked_aws, forked_xksproxy
from shown_output import shows
from support import PATIENCE_SECONDS, free_port, two_free_ports, wait_until_serving

_ROOT = Path(__file__).parents[2]
_PAGES = {
    str(path.relative_to(_ROOT)): path
    for path in (_ROOT / "README.md", *(_ROOT / "docs").glob("*.md"), _ROOT / "tools/README.md")
}
_BLOCKS = {name: blocks_of(path, name) for name, path in _PAGES.items()}
_TOGETHER = (
    ("docs/conformance.md", "docs/state.md", "README.md"),
    ("docs/kms-emulator.md", "docs/migration.md", "docs/deploy.md"),
    ("docs/credentials.md", "docs/authorization.md"),
    ("docs/key-versions.md", "docs/troubleshooting.md"),
    ("docs/operations.md", "docs/log-collectors.md"),
)
"""Pages that leave the environment as the next one needs it."""
_ALONE = [(name,) for name, blocks in _BLOCKS.items() if not all(block.not_run for block in blocks)]
_RUN = [*_TOGETHER, *(alone for alone in _ALONE if not any(alone[0] in pages for pages in _TOGETHER))]


@contextmanager
def _development_environment(directory: Path) -> Iterator[ConsoleSession]:
    """A shell beside a proxy that `xksproxy dev` serves, whose output is in the files ``introduction`` and ``log``."""
    programs = directory / "programs"
    programs.mkdir()
    (directory / "etc").mkdir()
    port = two_free_ports()
    replaced = {
        "8443": str(port),
        "9464": str(port + 1),
        "4599": str(free_port()),
        "/etc/xksproxy": f"{directory}/etc/xksproxy",
    }
    replaced["/var/log/xksproxy"] = str(directory)
    inherited = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
    environment = {"HOME": str(directory), "ROOT": str(_ROOT), **inherited}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    with ExitStack() as stack:
        stack.enter_context(forked_aws(programs))
        stack.enter_context(forked_xksproxy(programs, directory))
        introduction = stack.enter_context((directory / "introduction").open("wb"))
        log = stack.enter_context((directory / "log").open("wb"))
        command = ["xksproxy", "dev", "--port", str(port)]
        proxy = subprocess.Popen(command, cwd=directory, env=environment, stdout=introduction, stderr=log)
        stack.callback(proxy.wait, PATIENCE_SECONDS)
        stack.callback(proxy.terminate)
        session = ConsoleSession(directory, environment, replaced)
        stack.callback(session.close)
        config = directory / ".xksproxy-dev" / "xksproxy.toml"
        while not config.exists():
            assert proxy.poll() is None
        wait_until_serving(config, proxy)
        yield session


@pytest.mark.slow
@pytest.mark.parametrize("pages", _RUN, ids=" ".join)
def test_each_block_of_a_page_can_be_run_and_shows_what_is_written(pages: tuple[str, ...], tmp_path: Path) -> None:
    with _development_environment(tmp_path) as session:
        session.run(Block(pages[0], 0, [], first=["source .xksproxy-dev/client.env"]))
        for block in (block for page in pages for block in _BLOCKS[page]):
            if not block.not_run:
                session.run(block)


@pytest.mark.parametrize("page", _PAGES)
def test_a_block_that_is_not_run_says_why(page: str) -> None:
    unexplained = [block.place for block in _BLOCKS[page] if not block.steps and len(block.not_run.split()) < 3]

    assert unexplained == []


def _block(tmp_path: Path, text: str) -> Block:
    page = tmp_path / "page.md"
    page.write_text(text)
    (block,) = blocks_of(page, "page.md")
    return block


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ConsoleSession]:
    """A shell without a proxy."""
    made = ConsoleSession(tmp_path, {"PATH": os.environ["PATH"]}, {})
    yield made
    made.close()


@pytest.mark.parametrize(
    "block",
    [
        "```console\n$ echo two\none\n```\n",
        "```console\n$ false\n```\n",
        "<!-- console: output of: echo two -->\n```console\none\n```\n",
        "<!-- console: first: false -->\n```console\n$ true\n```\n",
        "<!-- console: serves -->\n```console\n$ echo two\none\n```\n",
    ],
)
def test_a_block_that_has_rotted_fails(
    block: str, session: ConsoleSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console_session._REPEATED_SECONDS", 0.0)

    with pytest.raises(AssertionError, match=r"page\.md:"):
        session.run(_block(tmp_path, block))


def test_a_value_that_was_shown_is_replaced_in_later_commands(session: ConsoleSession, tmp_path: Path) -> None:
    text = """\
<!-- console: first: made=cks-11111111111111111 -->

```console
$ echo "made $made" && \\
    export MADE
made cks-00000000000000000

$ test cks-00000000000000000 = $made
$ echo 'a   b'; exit_code() { return 3; }; exit_code; echo $?
a     b
…
```
"""

    session.run(_block(tmp_path, text))


@pytest.mark.parametrize(
    ("shown", "written", "same"),
    [
        ("200 in 6.4 ms", "200 in 17.25 ms\n", True),
        ("200 in 6.4 ms", "500 in 17.25 ms\n", False),
        ("at 2026-11-24T00:29:01.820+00:00", "at 2027-01-02T03:04:05.006+00:00\n", True),
        ("at 2026-11-24T00:29:01.820+00:00", "at noon\n", False),
        ('{"tag": "7oy02o5AZuqFGg8ZqFtCww=="}', '{"tag": "AAAAAAAAAAAAAAAAAAAAAA=="}\n', True),
        ('{"tag": "7oy02o5AZuqFGg8ZqFtCww=="}', '{"tag": "none of it"}\n', False),
        ("serial 0ba3884065a263a7", "serial ffffffffffffffff\n", True),
        ("follows: process 1, 2", "follows: process 31, 4\n", True),
        ("/etc/xksproxy/x.toml: ok", "/tmp/a/b/x.toml: ok\n", True),
        ("/etc/xksproxy/x.toml: ok", "/tmp/a/b/y.toml: ok\n", False),
        ("one\n…\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one\n…\nfour", "one\nfour\nfive\n", False),
        ("one … four", "one two four\n", True),
        ("A  B", "A      B\n", True),
        ("A B", "A  B\n", False),
        ("one", "one\ntwo\n", False),
    ],
)  # fmt: skip
def test_what_varies_is_a_pattern_and_everything_else_is_compared(shown: str, written: str, same: bool) -> None:
    assert (shows(shown.splitlines(), written) is not None) is same
