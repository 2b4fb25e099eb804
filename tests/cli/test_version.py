"""`xksproxy version`."""

import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

from xksproxy import __version__


def test_it_prints_the_version_and_those_of_the_libraries(run: Callable[..., Any]) -> None:
    done = run("version")

    assert (done.code, done.err) == (0, "")
    facts = dict(line.split(maxsplit=1) for line in done.text.splitlines())
    assert facts["xksproxy"] == __version__ == metadata.version("xksproxy")
    assert facts["python-pkcs11"] == metadata.version("python-pkcs11")
    assert facts["openssl"].startswith("OpenSSL ")


def test_json_holds_the_same_facts(run: Callable[..., Any]) -> None:
    done = run("version", "--json")

    assert (done.code, done.err) == (0, "")
    facts = json.loads(done.text)
    assert [f"{name:14} {value}" for name, value in facts.items()] == run("version").text.splitlines()


def test_a_reader_that_has_gone_is_no_reason_for_a_traceback(into_closed_pipe: Callable[..., Any]) -> None:
    code, err = into_closed_pipe("version")

    assert (code, err) == (1, "")
