"""The directory of a key store's credentials."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.credentials import load_credentials, read_credentials, save_credential
from xksproxy.config.errors import ConfigError
from xksproxy.sigv4.keyring import Credential

_ID = "BETWEEN2TENAND3TENCHARACTERS"
_SECRET = "PleaseReplaceThisWithSomeSecretOfLength43To64"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "credentials"
    made.mkdir(0o700)
    return made


@pytest.fixture
def put(directory: Path) -> Callable[..., Path]:
    """Write a credential file."""

    def write(content: str | bytes, name: str = "one.toml", mode: int = 0o600) -> Path:
        path = directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    return write


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A process that takes no permission away by itself."""
    before = os.umask(0)
    yield
    os.umask(before)


def _content(access_key_id: str = _ID, secret: str = _SECRET) -> str:
    return f'access_key_id = "{access_key_id}"\nsecret_access_key = "{secret}"\n'


def _problems(directory: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_credentials(directory)
    return caught.value.problems


def test_all_files_are_read_in_the_order_of_their_names(directory: Path, put: Callable[..., Path]) -> None:
    # R-AUTH-11: an old and a new credential verify side by side.
    ids = [letter * 20 for letter in "CAB"]
    for name, access_key_id in zip(("c.toml", "a.toml", "b.toml"), ids, strict=True):
        put(_content(access_key_id), name)

    assert [credential.access_key_id for credential in load_credentials(directory)] == sorted(ids)


def test_files_of_other_names_are_left_alone(directory: Path, put: Callable[..., Path]) -> None:
    put(_content())
    for name in ("README", "one.toml~", ".one.toml.swp", "two.toml.retired"):
        put("not a credential", name, 0o644)

    assert len(load_credentials(directory)) == 1


def test_a_directory_without_credentials_is_refused(directory: Path, put: Callable[..., Path]) -> None:
    put(_content(), "credential.txt")

    (problem,) = _problems(directory)

    assert problem.startswith(f"{directory}: it holds no credential")


@pytest.mark.parametrize("mode", [0o620, 0o660, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777])
def test_a_file_open_to_group_or_others_is_refused(directory: Path, put: Callable[..., Path], mode: int) -> None:
    path = put(_content(), mode=mode)

    assert _problems(directory) == (f"{path}: its mode is {mode:04o}; it holds a secret, so make it 0600",)


@pytest.mark.parametrize(
    "content",
    [
        f"{_SECRET}",
        f'access_key_id = "{_ID}"\nsecret_access_key = {_SECRET}\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}\\x"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = ["{_SECRET}"]\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = {{ value = "{_SECRET}" }}\n',
        f'access_key_id = ["{_ID}"]\nsecret_access_key = "{_SECRET}"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}"\nregion = "{_SECRET}"\n',
        f'access_key_id = "{_ID}"\nsecret_key = "{_SECRET}"\n',
        f'secret_access_key = "{_SECRET}"\n',
        f'access_key_id = "{_ID}"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}"\nsecret_access_key = "{_SECRET}"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}-"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET * 2}"\n',
        f'access_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}\\n"\n',
        f'access_key_id = "{_SECRET}"\nsecret_access_key = "{_ID}"\n',
        f'[credential]\naccess_key_id = "{_ID}"\nsecret_access_key = "{_SECRET}"\n',
        f'{_SECRET} = "{_ID}"\n',
        f"{_ID}:{_SECRET}\n",
        f'{{"AccessKeyId": "{_ID}", "RawSecretAccessKey": "{_SECRET}"}}',
        b'access_key_id = "\xff' + _SECRET.encode() + b'"\n',
        f"a = {'[' * 20_000}{_SECRET}",
    ],
)
def test_a_malformed_file_is_named_and_its_secret_is_not_quoted(
    directory: Path, put: Callable[..., Path], content: str | bytes
) -> None:
    # R-AUTH-7
    path = put(content)

    problems = _problems(directory)

    assert problems[0].startswith(f"{path}: ")
    assert _SECRET not in "\n".join(problems)


@pytest.mark.parametrize("content", ["", "\n\r\n"])
def test_an_empty_file_is_named(directory: Path, put: Callable[..., Path], content: str) -> None:
    path = put(content)

    assert _problems(directory) == (f"{path}: it is empty",)


def test_all_bad_files_are_named_at_once(directory: Path, put: Callable[..., Path]) -> None:
    put(_content(), "a.toml")
    paths = [put("nonsense", "b.toml"), put(_content("A" * 20), "c.toml", 0o644), put(_content("short"), "d.toml")]

    problems = _problems(directory)

    assert [problem.partition(": ")[0] for problem in problems] == [str(path) for path in paths]


@pytest.mark.parametrize("secret", [_SECRET, "s" * 43])
def test_an_access_key_id_that_comes_twice_is_refused(directory: Path, put: Callable[..., Path], secret: str) -> None:
    # R-AUTH-5: an id determines its secret.
    put(_content(), "a.toml")
    second = put(_content(secret=secret), "b.toml")

    assert _problems(directory) == (f"{second}: another file of this directory has the same access_key_id",)


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_named_like_a_credential_is_refused(directory: Path, mode: int) -> None:
    (directory / "one.toml").mkdir(mode)

    (problem,) = _problems(directory)

    assert problem.startswith(f"{directory / 'one.toml'}: ")


def test_a_link_that_leads_nowhere_is_refused(directory: Path) -> None:
    (directory / "one.toml").symlink_to(directory / "none")

    (problem,) = _problems(directory)

    assert problem == f"{directory / 'one.toml'}: No such file or directory"


def test_a_saved_credential_belongs_to_its_owner_alone_whatever_the_umask(directory: Path, open_umask: None) -> None:
    path = save_credential(directory, Credential(_ID, _SECRET))

    assert path == directory / f"{_ID}.toml"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_credential_is_never_overwritten(directory: Path) -> None:
    path = save_credential(directory, Credential(_ID, _SECRET))

    with pytest.raises(FileExistsError, match="the file exists"):
        save_credential(directory, Credential(_ID, "s" * 43))

    assert path.read_text() == _content()
    assert list(directory.iterdir()) == [path]


@given(
    st.from_regex(r"[A-Z2-7]{20,30}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9+/=]{43,64}", fullmatch=True),
)
def test_what_was_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, access_key_id: str, secret: str
) -> None:
    directory = tmp_path_factory.mktemp("credentials")
    saved = Credential(access_key_id, secret)
    save_credential(directory, saved)

    assert load_credentials(directory) == (saved,)


def test_the_creation_time_in_a_file_has_precedence_over_its_mtime(directory: Path) -> None:
    made = datetime(2030, 6, 1, 12, 0, 0, 250_000, tzinfo=timezone(timedelta(hours=2)))
    path = save_credential(directory, Credential(_ID, _SECRET), made)
    os.utime(path, (0, 0))

    (stored,) = read_credentials(directory)

    assert stored.created == made
    assert stored.created.utcoffset() == timedelta(0)


def test_without_a_creation_time_the_mtime_counts(directory: Path, put: Callable[..., Path]) -> None:
    os.utime(put(_content()), (1_000, 1_000))

    (stored,) = read_credentials(directory)

    assert stored.created.timestamp() == 1_000


@pytest.mark.parametrize("created", ['"yesterday"', "2030-06-01", "12", "true"])
def test_an_invalid_time_is_refused(directory: Path, put: Callable[..., Path], created: str) -> None:
    put(_content() + f"created = {created}\n")

    (problem,) = _problems(directory)

    assert "created, a date and time" in problem


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_writes_for_the_owner_of_the_directory(directory: Path) -> None:
    os.chown(directory, 12_345, 54_321)

    status = save_credential(directory, Credential(_ID, _SECRET)).stat()

    assert (status.st_uid, status.st_gid) == (12_345, 54_321)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_for_its_owner_and_the_group_of_the_service_is_accepted(
    directory: Path, put: Callable[..., Path], mode: int
) -> None:
    # Kubernetes makes it readable for a group with fsGroup.
    put(_content(), mode=mode)

    assert len(load_credentials(directory)) == 1


@pytest.mark.timeout(10)
def test_a_pipe_among_the_credentials_is_refused_at_once(directory: Path) -> None:
    os.mkfifo(directory / "x.toml", 0o600)

    (problem,) = _problems(directory)

    assert problem.startswith(f"{directory / 'x.toml'}: it is a named pipe (FIFO); expected a regular file")


@pytest.mark.parametrize("created", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_time_that_does_not_exist_in_utc_is_refused(directory: Path, put: Callable[..., Path], created: str) -> None:
    path = put(f"{_content()}\ncreated = {created}\n")

    assert _problems(directory) == (f"{path}: created: expected a time in the years 1 to 9999 UTC",)


def test_a_byte_order_mark_is_named(directory: Path, put: Callable[..., Path]) -> None:
    path = put("\ufeff" + _content())

    assert _problems(directory) == (f"{path}: it begins with a byte-order mark; save it as UTF-8 without one",)


@pytest.mark.parametrize(
    ("wrapped", "reason"),
    [
        ('\\"{}\\"', "it is in quotation marks"),
        ("{} ", "it has a blank at its beginning or end"),
        ("{}\\n", "it has a blank at its beginning or end"),
        ("\\u200b{}", "it has the invisible character U+200B"),
    ],
)
@pytest.mark.parametrize("name", ["access_key_id", "secret_access_key"])
def test_what_was_pasted_with_a_part_of_a_credential_is_named_and_not_shown(
    tmp_path: Path, name: str, wrapped: str, reason: str
) -> None:
    parts = {"access_key_id": "A" * 20, "secret_access_key": "s" * 43}
    parts[name] = wrapped.format(parts[name])
    path = tmp_path / "one.toml"
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in parts.items()))
    path.chmod(0o600)

    with pytest.raises(ConfigError) as refused:
        read_credentials(tmp_path)

    (problem,) = refused.value.problems
    assert problem.endswith(f"; {name}: {reason}")
    assert "ssss" not in problem
