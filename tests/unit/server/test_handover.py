"""Workers take what the master accepted last, from memory."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import make_environment

from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.config.errors import ConfigError
from xksproxy.config.held_secrets import hold_secrets
from xksproxy.config.load import load_config
from xksproxy.config.pins import read_pin
from xksproxy.server.accepted import Accepted, UsableFiles
from xksproxy.server.handover import Handover


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("handover") / "dev").directory


@pytest.fixture
def accepted(directory: Path, tmp_path: Path) -> Accepted:
    """With a policy."""
    policy = tmp_path / "all.cedar"
    policy.write_text("permit (principal, action, resource);")
    library = PolicyLibrary()
    library.stage([str(policy)])
    config = hold_secrets(load_config(directory / "xksproxy.toml"))
    return Accepted(config, 1, "request", 5.0, "digest", library.take_staged(), UsableFiles.read(config))


@pytest.fixture
def handover(accepted: Accepted) -> Iterator[Handover]:
    made = Handover()
    made.publish(accepted)
    yield made
    made.close()


def test_what_is_taken_is_what_was_published_whatever_the_files_are_by_then(
    handover: Handover, accepted: Accepted
) -> None:
    ((paths, policies),) = accepted.policies.items()
    Path(paths[0]).write_text("forbid (principal, action, resource);")

    taken = handover.take(PolicyLibrary())

    assert (taken.config, taken.number, taken.request, taken.at) == (accepted.config, 1, "request", 5.0)
    assert read_pin(taken.config.hsm[0]).reveal() == read_pin(accepted.config.hsm[0]).reveal()
    assert [policy.text for policy in taken.policies[paths].policies] == [policy.text for policy in policies.policies]
    assert taken.files.certificate == accepted.files.certificate
    assert [
        stored.credential.secret_access_key for each in taken.files.credentials.values() for stored in each.stored
    ] == [stored.credential.secret_access_key for each in accepted.files.credentials.values() for stored in each.stored]


def test_the_last_one_is_taken_also_if_it_has_a_lower_number(handover: Handover, accepted: Accepted) -> None:
    handover.publish(replace(accepted, number=2, request="second"))
    assert handover.take(PolicyLibrary()).request == "second"

    handover.publish(replace(accepted, request="taken back"))

    assert (handover.number, handover.take(PolicyLibrary()).request) == (1, "taken back")


def test_a_child_process_takes_what_is_published_after_the_fork(handover: Handover, accepted: Accepted) -> None:
    reader, writer = os.pipe()
    go, went = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.read(go, 1)
            os.write(writer, handover.take(PolicyLibrary()).request.encode())
        finally:
            os._exit(0)
    handover.publish(replace(accepted, number=2, request="after the fork"))
    os.write(went, b"x")
    os.waitpid(child, 0)

    assert os.read(reader, 100) == b"after the fork"
    for descriptor in (reader, writer, go, went):
        os.close(descriptor)


def test_what_is_read_while_others_are_published_is_whole(handover: Handover, accepted: Accepted) -> None:
    ended = threading.Event()

    def publish() -> None:
        for number in range(2, 200):
            handover.publish(replace(accepted, number=number, request=str(number) * (number % 7) * 1000))
        ended.set()

    thread = threading.Thread(target=publish)
    thread.start()
    library = PolicyLibrary()
    taken = []
    while not ended.is_set():
        found = handover.take(library)
        taken.append(found.number)
        assert found.number == 1 or found.request == str(found.number) * (found.number % 7) * 1000
    thread.join()

    assert taken == sorted(taken)
    assert handover.take(library).number == 199


def test_memory_that_does_not_have_what_was_published_is_an_error(handover: Handover) -> None:
    handover._number.value = 2

    with pytest.raises(ConfigError, match="cannot be read"):
        handover.take(PolicyLibrary())


def test_nothing_of_it_is_in_a_file_system(handover: Handover) -> None:
    names = [str(Path(f"/proc/self/fd/{descriptor}").readlink()) for descriptor in handover._areas]

    assert names == ["/memfd:xksproxy-accepted (deleted)"] * 2


def test_content_that_was_overwritten_in_part_is_not_taken(handover: Handover) -> None:
    area = handover._areas[1]
    last = os.fstat(area).st_size - 1
    os.pwrite(area, bytes([os.pread(area, 1, last)[0] ^ 1]), last)

    with pytest.raises(ConfigError, match="cannot be read"):
        handover.take(PolicyLibrary())


def test_what_has_another_number_than_was_published_is_not_taken(handover: Handover, accepted: Accepted) -> None:
    handover.publish(replace(accepted, number=3))
    handover._number.value = 1

    with pytest.raises(ConfigError, match="cannot be read"):
        handover.take(PolicyLibrary())
