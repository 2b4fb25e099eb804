"""What a POSIX ACL gives to others is refused where a mode that gave it would be."""

import errno
import os
from pathlib import Path

import pytest
from access_lists import let

from xksproxy.config.access_list import CHANGE, READ, acl_problem
from xksproxy.config.service_user import ServiceUser

_STRANGER = 54321
_USER = ServiceUser(1000, frozenset({1000, 2000}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("content")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("right", "verb"), [(READ, "read"), (CHANGE, "change")])
@pytest.mark.parametrize("named", ["user", "group"])
def test_a_right_of_a_stranger_is_a_problem(file: Path, named: str, right: int, verb: str) -> None:
    let(file, right, **{named: _STRANGER})

    problem = f"its ACL lets {named} {_STRANGER} {verb} it; remove the ACL with setfacl -b"
    assert acl_problem(file, right, _USER) == problem
    descriptor = os.open(file, os.O_RDONLY)
    assert acl_problem(descriptor, right, _USER) == problem
    os.close(descriptor)


@pytest.mark.parametrize("who", [{"user": 0}, {"user": 1000}, {"group": 0}, {"group": 2000}])
def test_a_right_of_root_or_of_the_user_is_no_problem(file: Path, who: dict[str, int]) -> None:
    let(file, 6, **who)

    assert acl_problem(file, READ, _USER) is None


def test_a_right_that_is_masked_or_another_one_is_no_problem(file: Path) -> None:
    let(file, 4, user=_STRANGER)
    assert acl_problem(file, CHANGE, _USER) is None

    file.chmod(0o600)  # which makes the mask empty
    assert acl_problem(file, READ, _USER) is None


def test_a_file_without_a_list_is_no_problem(file: Path) -> None:
    assert acl_problem(file, READ, _USER) is None


@pytest.mark.parametrize("content", [b"", b"\2\0\0\0abc", b"\3\0\0\0", OSError(errno.EACCES, "Permission denied")])
def test_a_list_that_cannot_be_read_is_a_problem(
    file: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | OSError
) -> None:
    def read(_file: Path, _attribute: str) -> bytes:
        if isinstance(content, OSError):
            raise content
        return content

    monkeypatch.setattr(os, "getxattr", read)

    assert str(acl_problem(file, READ, _USER)).startswith("its ACL cannot be read: ")


def test_a_file_system_without_lists_is_no_problem(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: Path, _attribute: str) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "getxattr", refuse)

    assert acl_problem(file, READ, _USER) is None
