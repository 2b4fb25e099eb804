"""Reading the configuration file: typed strictly, refused with the place and what was expected there."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from access_lists import let

from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, Key, Logging
from xksproxy.config.secret import SecretReference

_PIN = "sesame-4711"


def _problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return caught.value.problems


def test_every_value_of_the_file_arrives_in_its_field(minimal: str, written: Callable[..., Path]) -> None:
    text = minimal.replace(
        "[server.tls]",
        '[server]\nlisten = "[::]:8443"\nworkers = 3\ndeadline_ms = 150\nmax_in_flight = 7\nmax_connections = 8\n'
        'fleet_size = 9\n[server.tls]\nclient_ca = "ca.pem"\nclient_names = ["one", "two"]',
    )
    text = text.replace("pin =", 'preset = "softhsm2"\nsessions = 5\nenvironment = { A = "b" }\npin =')
    text += 'label = "other"\ndisabled = true\n[logging]\nlevel = "debug"\nformat = "console"\n'

    config = load_config(written(text))

    server = config.server
    assert (server.listen, server.workers, server.deadline_ms, server.fleet_size) == ("[::]:8443", 3, 150, 9)
    assert (server.max_in_flight, server.max_connections) == (7, 8)
    assert server.tls.client_names == ("one", "two")
    assert (config.hsm[0].preset, config.hsm[0].sessions, config.hsm[0].environment) == ("softhsm2", 5, {"A": "b"})
    assert config.keystore[0].keys[1] == Key(id="second-key", label="other", disabled=True)
    assert config.logging == Logging(level="debug", format="console")


def test_relative_paths_count_from_the_file_not_from_where_the_command_runs(
    minimal: str, written: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(minimal.replace('[server.tls]\ncertificate = "', '[server.tls]\nclient_ca = "ca.pem"\ncertificate = "tls/'))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = load_config(Path("../xksproxy.toml"))

    tls, pin = config.server.tls, config.hsm[0].pin
    assert isinstance(pin, SecretReference)
    assert pin.file is not None
    assert tls.client_ca is not None
    named = (tls.certificate, tls.private_key, tls.client_ca, config.hsm[0].module, pin.file)
    named += (config.keystore[0].credentials,)
    expected = ("tls/server.pem", "server-key.pem", "ca.pem", "module.so", "pin", "credentials")
    assert all(Path(path).is_absolute() for path in named)
    assert [Path(path).resolve() for path in named] == [(tmp_path / path).resolve() for path in expected]


def test_absolute_paths_stay_as_they_are(minimal: str, written: Callable[..., Path]) -> None:
    config = load_config(written(minimal.replace('"module.so"', '"/usr/lib/module.so"')))

    assert config.hsm[0].module == "/usr/lib/module.so"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ('{ env = "HSM_PIN" }', SecretReference(env="HSM_PIN")),
        ('{ credential = "hsm-pin" }', SecretReference(credential="hsm-pin")),
    ],
)
def test_a_reference_to_the_environment_or_a_credential_is_no_path(
    minimal: str, written: Callable[..., Path], reference: str, expected: SecretReference
) -> None:
    config = load_config(written(minimal.replace('{ file = "pin" }', reference)))

    assert config.hsm[0].pin == expected


def test_a_token_without_a_pin_is_legal(minimal: str, written: Callable[..., Path]) -> None:
    assert load_config(written(minimal.replace('pin = { file = "pin" }\n', ""))).hsm[0].pin is None


@pytest.mark.parametrize(
    ("old", "new", "place", "nearest"),
    [
        ("[server.tls]", "[sever]\n[server.tls]", "sever", "server"),
        ("[server.tls]", '[server]\nlistn = "x"\n[server.tls]', "server.listn", "listen"),
        ("certificate =", "certficate =", "server.tls.certficate", "certificate"),
        ("module =", "modul =", "hsm[0].modul", "module"),
        ('{ file = "pin" }', '{ fil = "pin" }', "hsm[0].pin.fil", "file"),
        ("uri_path_prefix =", "uri_prefix =", "keystore[0].uri_prefix", "uri_path_prefix"),
        ('id = "second-key"', 'id = "second-key"\nlable = "x"', "keystore[0].keys[1].lable", "label"),
        ('id = "second-key"', 'id = "second-key"\n[logging]\nlevl = "info"', "logging.levl", "level"),
    ],
)
def test_an_unknown_key_is_refused_with_file_place_and_nearest_key(
    changed: Callable[[str, str], Path], old: str, new: str, place: str, nearest: str
) -> None:
    path = changed(old, new)

    assert _problems(path) == (f"{path}: {place}: unknown key; did you mean {nearest}?",)


def test_an_unknown_key_like_no_other_is_refused_with_all_that_are_known(
    minimal: str, written: Callable[..., Path]
) -> None:
    path = written(minimal + "zzz = 1\n")

    assert _problems(path) == (
        f"{path}: keystore[0].keys[1].zzz: unknown key; expected one of {', '.join(Key.__struct_fields__)}",
    )


def test_all_unknown_keys_are_named_at_once_and_before_wrong_types(minimal: str, written: Callable[..., Path]) -> None:
    text = minimal.replace("[server.tls]", "wrokers = 2\n[server]\nworkers = true\nlisen = 1\n[server.tls]\nca = 2")
    path = written(text + "lable = 3\n")

    assert [problem.removeprefix(f"{path}: ").partition(":")[0] for problem in _problems(path)] == [
        "wrokers",
        "server.lisen",
        "server.tls.ca",
        "keystore[0].keys[1].lable",
    ]


def test_a_module_may_be_given_any_environment_variable(minimal: str, written: Callable[..., Path]) -> None:
    config = load_config(written(minimal.replace("pin =", 'environment = { pin = "a", "b-c" = "d" }\npin =')))

    assert config.hsm[0].environment == {"pin": "a", "b-c": "d"}


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("[server.tls]", "[server]\nworkers = '2'\n[server.tls]", "server.workers: Expected `int`, got `str`"),
        ("[server.tls]", "[server]\nworkers = 2.0\n[server.tls]", "server.workers: Expected `int`, got `float`"),
        ("[server.tls]", "[server.tls]\nclient_names = 'x'", "server.tls.client_names: Expected `array`, got `str`"),
        (
            "[[hsm]]",
            "[hsm]",
            "hsm: Expected `array`, got `table`; write [[hsm]] instead of [hsm]",
        ),
        ('["hsm-1"]', '"hsm-1"', "keystore[0].hsms: Expected `array`, got `str`"),
        ('"second-key"', "2", "keystore[0].keys[1].id: Expected `str`, got `int`"),
    ],
)
def test_a_wrong_type_is_refused_with_file_place_and_what_was_expected(
    changed: Callable[[str, str], Path], old: str, new: str, place: str
) -> None:
    path = changed(old, new)

    assert _problems(path) == (f"{path}: {place}",)


@pytest.mark.parametrize(
    ("old", "new", "place", "choices"),
    [
        ('"second-key"', '"second-key"\n[logging]\nlevel = "loud"', "logging.level", ("debug", "warning")),
        ('"second-key"', '"second-key"\n[logging]\nformat = "xml"', "logging.format", ("json", "console")),
        ("pin =", 'preset = "hal"\npin =', "hsm[0].preset", ("softhsm2", "generic")),
    ],
)
def test_a_value_outside_the_choices_is_refused_with_the_choices(
    changed: Callable[[str, str], Path], old: str, new: str, place: str, choices: tuple[str, ...]
) -> None:
    path = changed(old, new)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: {place}: ")
    assert all(choice in problem for choice in choices), problem


@pytest.mark.parametrize(
    ("key", "lowest", "highest"),
    [
        ("workers", 1, 256),
        ("deadline_ms", 10, 250),
    ],
)
def test_numbers_of_the_server_are_taken_within_their_range_only(
    minimal: str, written: Callable[..., Path], key: str, lowest: int, highest: int
) -> None:
    def with_value(value: int) -> Path:
        return written(minimal.replace("[server.tls]", f"[server]\n{key} = {value}\n[server.tls]"))

    assert getattr(load_config(with_value(lowest)).server, key) == lowest
    assert getattr(load_config(with_value(highest)).server, key) == highest
    for beyond in (lowest - 1, highest + 1, -1, 2**70):
        (problem,) = _problems(with_value(beyond))
        assert f": server.{key}: " in problem


@pytest.mark.parametrize(
    ("old", "place"),
    [
        ('"server.pem"', "server.tls.certificate"),
        ('"module.so"', "hsm[0].module"),
        ('{ file = "pin" }', "hsm[0].pin"),
        ('"credentials"', "keystore[0].credentials"),
        ('"second-key"', "keystore[0].keys[1].id"),
    ],
)
def test_an_empty_text_is_refused_for_a_required_value(
    minimal: str, written: Callable[..., Path], old: str, place: str
) -> None:
    key = old.partition(" = ")[0] + " = " if " = " in old and not old.startswith("{") else ""

    (problem,) = _problems(written(minimal.replace(old, f'{key}""'), 0o600))

    assert f": {place}: Expected `str` of length >= 1" in problem


def test_the_empty_prefix_is_legal(minimal: str, written: Callable[..., Path]) -> None:
    assert load_config(written(minimal.replace('"/payments"', '""'))).keystore[0].uri_path_prefix == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('certificate = "server.pem"\n', "server.tls: missing key `certificate`"),
        ('id = "hsm-1"\n', "hsm[0]: missing key `id`"),
        ('uri_path_prefix = "/payments"\n', "keystore[0]: missing key `uri_path_prefix`"),
        ('credentials = "credentials"\n', "keystore[0]: missing key `credentials`"),
        ('id = "second-key"\n', "keystore[0].keys[1]: missing key `id`"),
    ],
)
def test_a_missing_key_is_named_with_its_table(
    minimal: str, written: Callable[..., Path], line: str, problem: str
) -> None:
    assert line in minimal
    path = written(minimal.replace(line, ""))

    assert _problems(path) == (f"{path}: {problem}",)


@pytest.mark.parametrize("table", ["server", "hsm", "keystore"])
def test_a_missing_table_is_named(minimal: str, written: Callable[..., Path], table: str) -> None:
    starts = {"server": 0, "hsm": minimal.index("[[hsm]]"), "keystore": minimal.index("[[keystore]]")}
    ends = {"server": starts["hsm"], "hsm": starts["keystore"], "keystore": len(minimal)}
    path = written(minimal[: starts[table]] + minimal[ends[table] :])

    assert _problems(path) == (f"{path}: missing key `{table}`",)


@pytest.mark.parametrize("content", [b"[server\n", b"a = 1\na = 2\n", b"server: {}\n", b"{}"])
def test_what_is_not_toml_is_refused_with_the_file(written: Callable[..., Path], content: bytes) -> None:
    path = written(content)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: not TOML: ")


def test_arrays_nested_beyond_reason_are_refused_like_any_other_nonsense(written: Callable[..., Path]) -> None:
    path = written("a = " + "[" * 20_000)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: ")


def test_a_file_of_ten_thousand_key_stores_is_read(minimal: str, written: Callable[..., Path]) -> None:
    comment = "# 300 bytes for each key store\n" * 100_000
    assert load_config(written(minimal + comment)) == load_config(written(minimal))


def test_a_file_of_more_than_64_mib_is_refused(written: Callable[..., Path]) -> None:
    path = written("")
    with path.open("r+b") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    with pytest.raises(ConfigError, match="it has more than 67108864 bytes"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert _problems(tmp_path / "none.toml") == (f"{tmp_path / 'none.toml'}: No such file or directory",)


def test_a_directory_in_the_place_of_the_file_is_named(tmp_path: Path) -> None:
    assert _problems(tmp_path) == (f"{tmp_path}: it is a directory; expected a regular file",)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o601, 0o666, 0o777])
def test_an_inline_pin_is_refused_in_a_file_open_to_others_and_is_not_repeated(
    minimal: str, written: Callable[..., Path], mode: int
) -> None:
    path = written(minimal.replace('{ file = "pin" }', f'"{_PIN}"'), mode)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: hsm[0].pin: ")
    assert f"{mode:04o}" in problem
    assert _PIN not in problem


def test_an_inline_pin_is_refused_in_a_file_that_an_acl_lets_others_read(
    minimal: str, written: Callable[..., Path]
) -> None:
    path = written(minimal.replace('{ file = "pin" }', f'"{_PIN}"'), 0o600)
    let(path, 4, user=54321)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: hsm[0].pin: ")
    assert "its ACL lets user 54321 read it" in problem
    assert _PIN not in problem


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_an_inline_pin_is_accepted_in_a_file_closed_to_others(
    minimal: str, written: Callable[..., Path], mode: int
) -> None:
    config: Config = load_config(written(minimal.replace('{ file = "pin" }', f'"{_PIN}"'), mode))

    assert config.hsm[0].pin is not None


def test_every_inline_pin_is_named_at_once(minimal: str, written: Callable[..., Path]) -> None:
    second = f'[[hsm]]\nid = "hsm-2"\nmodule = "module.so"\ntoken = "other"\npin = "{_PIN}"\n'
    path = written(minimal.replace('{ file = "pin" }', f'"{_PIN}"') + second)

    problems = _problems(path)

    assert [problem.removeprefix(f"{path}: ").partition(":")[0] for problem in problems] == ["hsm[0].pin", "hsm[1].pin"]
    assert not any(_PIN in problem for problem in problems)


@pytest.mark.parametrize(
    "pin",
    [
        f'"{_PIN}',
        f'["{_PIN}"]',
        f'{{ value = "{_PIN}" }}',
        f'"{_PIN}\\x"',
        f'"""{_PIN}',
        f'"{_PIN}" "again"',
        f'{{ file = ["{_PIN}"] }}',
        f'"{_PIN}"\nworkers = 3',
        f'"{_PIN}"\npin = "{_PIN}"',
        f'"{_PIN}"\nsessions = "many"',
    ],
)
def test_no_refusal_repeats_a_pin_that_stands_inline(minimal: str, written: Callable[..., Path], pin: str) -> None:
    problems = _problems(written(minimal.replace('{ file = "pin" }', pin), 0o600))

    assert problems
    assert _PIN not in "\n".join(problems)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xef\xbb\xbf[server]\n", "it begins with a byte-order mark"),
        (b"\xff\xfe[\0", "it begins with a byte-order mark"),
        (b"\x00", "it has a NUL byte"),
        (b"[server]\xff\n", "it is not UTF-8 text"),
    ],
)
def test_what_is_not_plain_text_is_refused_with_what_it_is(
    written: Callable[..., Path], content: bytes, reason: str
) -> None:
    path = written(content)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[server]\nworkers = 1\nworkers = 2\n", "the key workers is there twice"),
        ("[server]\nworkers = 1\nworkers = 2", "the key workers is there twice"),
        ("[server]\nworkers = 1\nworkers = [\n  2,\n]\n", "the key workers is there twice"),
        ("[server]\n[admin]\n[server]\n", "the table [server] is there twice (at line 3"),
        ("[hsm]\nid = 'a'\n[hsm]\n", "remove one, or write [[hsm]]"),
        ("[hsm]\n[[hsm]]\n", "the table [hsm] is there twice"),
        ("server = 1\n[server]\n", "the table [server] is there twice, or as a value and as a table"),
        ("a = " + "9" * 5000, "a number has too many digits"),
    ],
)
def test_a_key_or_table_that_comes_twice_is_named(written: Callable[..., Path], text: str, reason: str) -> None:
    path = written(text)

    (problem,) = _problems(path)

    assert problem.startswith(f"{path}: not TOML: ")
    assert reason in problem


@pytest.mark.timeout(10)
def test_a_pipe_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.toml")

    assert _problems(tmp_path / "x.toml") == (
        f"{tmp_path / 'x.toml'}: it is a named pipe (FIFO); expected a regular file",
    )


@pytest.mark.parametrize(("table", "key"), [("state", "directory"), ("audit", "file")])
def test_a_path_with_a_nul_is_refused_by_its_key(
    minimal: str, written: Callable[..., Path], table: str, key: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(written(f'{minimal}\n[{table}]\n{key} = "a\\u0000b"\n'))

    assert f"{table}.{key}: a path cannot have a NUL" in refused.value.problems[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ä" * 128, "a name in a path can have 255 bytes at most; one has 256"),
        ("/a" * 2048, "a path can have 4095 bytes at most; this one has 4096"),
    ],
    ids=["name", "path"],
)
def test_a_path_that_is_too_long_is_refused_by_its_key(
    minimal: str, written: Callable[..., Path], value: str, expected: str
) -> None:
    for table, key in (("state", "directory"), ("audit", "file")):
        with pytest.raises(ConfigError, match=f"{table}\\.{key}: {expected}"):
            load_config(written(f'{minimal}\n[{table}]\n{key} = "{value}"\n'))
