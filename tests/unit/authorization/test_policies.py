"""Policies are loaded completely, or refused with file, line and reason."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.authorization.findings import findings, reads_request_id
from xksproxy.authorization.policies import PolicyLibrary, load_policies
from xksproxy.config.errors import ConfigError

_ALL = "permit (principal, action, resource);"
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str | bytes, name: str = "a.cedar") -> str:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write_file


def problems(*paths: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_policies(paths)
    return caught.value.problems


def when(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};"


def test_the_id_of_a_policy_is_its_annotation_or_its_place(write: Write) -> None:
    path = write(f'// first\n@id("named")\n{_ALL}\n\n{_ALL}\n@id("")\n{_ALL}\n')

    assert [policy.id for policy in load_policies([path]).policies] == ["named", "a.cedar:5", "a.cedar:6"]


def test_a_directory_is_read_as_its_cedar_files_in_order(write: Write, tmp_path: Path) -> None:
    for name in ("d/b.cedar", "d/a.cedar", "d/c.txt"):
        write(_ALL, name)

    loaded = load_policies([str(tmp_path / "d"), str(tmp_path / "d" / "a.cedar")])

    assert [policy.id for policy in loaded.policies] == ["a.cedar:1", "b.cedar:1"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("", "", "the file has no policy"),
        (b"\xff\xfe", "", "a byte-order mark"),
        (b"\xff", "", "not UTF-8"),
        (f"{_ALL}\npermit (principal action, resource);", ":2", "unexpected token `action`"),
        (f"{_ALL}\n\npermit (principal", ":3", "unexpected end of input"),
        (when("nonsense"), ":1", "invalid variable: nonsense"),
        ('permit (principal, action == Xks::Action::"Encrytp", resource);', ":1", "unrecognized action"),
        (when('context.awsSourceVpce == "vpce-1"'), ":1", "safety of access to optional attribute `awsSourceVpce`"),
        (when('principal.team == "a"'), ":1", "attribute `team` on entity type `Xks::Principal` not found"),
        ("permit (principal == ?principal, action, resource);", ":1", "templates are not supported"),
        (when("(" * 60 + "true" + ")" * 60), ":1", "levels of nested brackets"),
        (when(" || ".join(["true"] * 1500)), ":1", "names and operators"),
        (when(" || ".join(["true"] * 150)), ":1", "nesting exceeds the supported limit"),
        (f'@id("x")\n{_ALL}\n@id("x")\n{_ALL}', ":3", "has the same id x"),
        (f"{_ALL} {_ALL}", ":1", "give it another @id"),
        ("\0" + _ALL, "", "it has a NUL byte"),
    ],
)
def test_an_invalid_policy_is_refused_with_its_place(write: Write, text: str | bytes, place: str, words: str) -> None:
    path = write(text)

    (problem,) = problems(path)

    assert problem.startswith(f"{path}{place}: ")
    assert words in problem


@pytest.mark.parametrize("condition", ["(" * 20_000, "[" * 5000, "!(" * 5000, "true &&" * 50_000, "if " * 50_000])
def test_a_policy_that_would_crash_the_parser_is_refused(write: Write, condition: str) -> None:
    assert "more than" in problems(write(when(condition)))[0]


def test_all_problems_are_reported_at_once(write: Write, tmp_path: Path) -> None:
    one, two = write(f"x;\n{_ALL}\ny;"), write(when("principal.team"), "b.cedar")

    found = problems(one, str(tmp_path / "none.cedar"), two)

    assert [problem.partition(": ")[0] for problem in found] == [
        f"{one}:1",
        f"{one}:3",
        str(tmp_path / "none.cedar"),
        f"{two}:1",
    ]


def test_an_invalid_policy_is_named(write: Write) -> None:
    path = write(f'{_ALL}\n@id("typo")\n{when("principal.team")}\n')

    assert problems(path)[0].startswith(f"{path}:2: policy typo: attribute `team`")


def test_a_directory_without_policies_is_refused(tmp_path: Path) -> None:
    assert problems(str(tmp_path)) == (
        f"{tmp_path}: the directory has no *.cedar file; without a policy every request would be refused",
    )


@pytest.mark.parametrize("name", ["none", "x" * 300, "a\0b"])
def test_a_path_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    assert problems(str(tmp_path / name))[0].startswith(str(tmp_path))


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.cedar")

    assert "it is a named pipe (FIFO); expected a regular file" in problems(str(tmp_path))[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("forbid (principal, action, resource);", "no policy permits anything"),
        (
            'permit (principal, action, resource == Xks::ExternalKey::"other");',
            "does not expose the external key other",
        ),
        (when('resource in [Xks::ExternalKey::"other"]'), "does not expose the external key other"),
        ('permit (principal == Xks::Principal::"arn:aws:iam::1:role/*", action, resource);', "is not a wildcard here"),
        ('permit (principal == Xks::Principal::"Alice", action, resource);', "no caller has the name Alice"),
        (when("false"), "its condition is never true"),
        ("permit (principal, action, resource) unless { true };", "its condition is never true"),
    ],
)
def test_a_policy_that_can_never_match_is_found(write: Write, text: str, words: str) -> None:
    path = write(text)

    (finding,) = findings(load_policies([path]), {"known"}.__contains__)

    assert finding.startswith(path)
    assert words in finding


@pytest.mark.parametrize(
    "text",
    [
        'permit (principal, action, resource == Xks::ExternalKey::"known");',
        'permit (principal == Xks::Principal::"arn:aws:iam::123456789012:user/Alice", action, resource);',
        'permit (principal == Xks::Principal::"ec2.amazonaws.com", action, resource);',
        'permit (principal == Xks::Principal::"AWS Internal", action, resource);',
        when('principal.arn like "arn:aws:sts::123456789012:assumed-role/R/*"'),
        when("true"),
    ],
)
def test_nothing_is_found_in_policies_that_can_match(write: Write, text: str) -> None:
    assert list(findings(load_policies([write(text)]), {"known"}.__contains__)) == []


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ('context.kmsRequestId == "a"', True),
        ('context["kmsRequestI\\u{64}"] == "a"', True),
        ("context has kmsRequestId", True),
        ('["a", context.kmsRequestId].contains(context.region)', True),
        ("context == context", True),
        ("{a: context} == {a: context}", True),
        ('(if principal has account then context else context).region == "a"', True),
        ('context.region == "kmsRequestId"', False),
        ("context has kmsKeyAccount && context.kmsKeyAccount == context.region", False),
        ("true", False),
    ],
)
def test_whether_a_policy_reads_the_id_of_the_request_is_known(write: Write, condition: str, reads: bool) -> None:
    assert reads_request_id(load_policies([write(when(condition))])) is reads


# --- The library


def test_equal_files_are_compiled_once_and_each_policy_knows_its_file(write: Write) -> None:
    library = PolicyLibrary()
    one, other = write(_ALL, "a/p.cedar"), write(_ALL, "b/p.cedar")

    first, second = library.load([one]), library.load([other])

    assert first.policy_set is second.policy_set
    assert first.policies[0].tree is second.policies[0].tree
    assert [str(loaded.policies[0].file) for loaded in (first, second)] == [one, other]


def test_only_the_policies_of_a_file_that_changed_are_compiled_again(write: Write) -> None:
    library = PolicyLibrary()
    before = library.load([write(f'@id("a")\n{_ALL}\n@id("b")\n{_ALL}')])

    after = library.load([write(f'@id("a")\n{_ALL}\n@id("c")\n{_ALL}')])

    assert [policy.id for policy in after.policies] == ["a", "c"]
    assert after.policies[0].tree is before.policies[0].tree
    assert after.policy_set is not before.policy_set


def test_policies_that_are_not_valid_are_refused_each_time(write: Write) -> None:
    library = PolicyLibrary()
    path = write(when("principal.unknown == 1"))

    for _ in range(2):
        with pytest.raises(ConfigError, match="unknown"):
            library.load([path])


def test_what_is_not_loaded_any_more_is_forgotten_at_the_second_time(write: Write) -> None:
    library = PolicyLibrary()
    kept, gone = write(_ALL, "kept.cedar"), write(f'@id("gone")\n{_ALL}', "gone.cedar")
    first = [library.load([path]).policy_set for path in (kept, gone)]
    library.take_staged()
    assert library.load([kept]).policy_set is first[0]
    library.take_staged()

    assert library.load([kept]).policy_set is first[0]
    assert library.load([gone]).policy_set is not first[1]


def test_staged_policies_are_those_that_the_files_had_when_they_were_staged(write: Write) -> None:
    library = PolicyLibrary()
    path = write(f'@id("a")\n{_ALL}')
    library.stage((path,))
    write(f'@id("b")\n{_ALL}')

    staged = library.take_staged()

    assert [policy.id for policy in staged[path,].policies] == ["a"]
    assert library.take_staged() == {}
