"""Keys that are named by their CKA_ID, and what is on record of them, on a real token."""

import copy
from collections.abc import Callable
from contextlib import closing

import pytest
from fault_support import FaultyHsm
from pkcs11 import Attribute

from xksproxy.config.object_names import ObjectName
from xksproxy.config.pins import read_pin
from xksproxy.hsm.errors import KeyAmbiguous, KeyMissing
from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.state.usage import UsageBook

ONE, OTHER = str(ObjectName(None, b"\x01\xff")), str(ObjectName(None, b"\x02"))


def make(session: HsmSession, label: str, object_id: bytes | None) -> None:
    generate_aes_key(session.binding, 256, name=ObjectName(label, object_id), encrypt=True, decrypt=True)


def count(session: HsmSession, name: str) -> int:
    """Encryptions on record, without those that are only reserved."""
    usage = session._connection.usage
    usage.return_unused()
    return usage.read(name).encryptions


def test_two_keys_of_one_label_are_told_apart_by_their_ids(session: HsmSession) -> None:
    make(session, "twins", b"\x01\xff")
    make(session, "twins", b"\x02")

    sealed = session.encrypt(ONE, b"text", b"")

    assert session.decrypt(str(ObjectName("twins", b"\x01\xff")), sealed, b"") == b"text"
    assert session.describe_key(OTHER).object_id == b"\x02"
    with pytest.raises(KeyMissing):
        session.describe_key(str(ObjectName("other label", b"\x02")))


def test_objects_that_fit_one_name_are_refused_with_what_tells_them_apart(session: HsmSession) -> None:
    make(session, "rivals", b"\x0a")
    make(session, "rivals", None)

    with pytest.raises(KeyAmbiguous, match=r"'rivals' with CKA_ID 0a .*; label 'rivals' with no CKA_ID"):
        session.encrypt("rivals", b"text", b"")


def test_the_handles_of_a_listing_are_found_by_each_name(session: HsmSession) -> None:
    make(session, "listed", b"\x0b")
    make(session, "listed", b"\x0c")

    session.list_keys()

    hints = session._connection.key_hints
    assert "listed" not in hints
    assert hints[str(ObjectName(None, b"\x0b"))] != hints[str(ObjectName(None, b"\x0c"))]
    assert session.describe_key(str(ObjectName(None, b"\x0c"))).object_id == b"\x0c"


def test_a_key_is_made_with_its_id_and_a_default_label(session: HsmSession) -> None:
    name = str(ObjectName(None, b"\x0d"))
    session.create_key(name, bits=256, encrypt=True, decrypt=True, default_label="made")

    assert session.describe_key(name).label == "made"
    for taken, label in ((name, "another"), (str(ObjectName(None, b"\x0e")), "made")):
        with pytest.raises(KeyAmbiguous):
            session.create_key(taken, bits=256, encrypt=True, decrypt=True, default_label=label)


@pytest.mark.parametrize(("first", "then"), [("label", "id"), ("id", "label")])
def test_a_key_that_gets_another_name_keeps_its_count(session: HsmSession, first: str, then: str) -> None:
    label, object_id = f"renamed-{first}", first.encode()
    make(session, label, object_id)
    names = {"label": label, "id": str(ObjectName(None, object_id))}
    session.make_fingerprint(names[first])
    session.encrypt(names[first], b"text", b"")
    before = count(session, names[first])

    session.make_fingerprint(names[then])
    session.encrypt(names[then], b"text", b"")

    assert count(session, names[then]) == count(session, names[first]) == before + 2


def test_a_count_is_found_under_the_label_though_another_key_has_that_label_now(session: HsmSession) -> None:
    make(session, "common", b"\x21")
    session.make_fingerprint("common")
    make(session, "common", b"\x22")
    mine, others = (str(ObjectName(None, object_id)) for object_id in (b"\x21", b"\x22"))

    session.make_fingerprint(mine)
    session.make_fingerprint(others)

    assert count(session, mine) == count(session, "common") == 2
    assert count(session, others) == 1


def test_a_key_whose_check_value_is_not_on_record_is_recognised_by_its_canary(session: HsmSession) -> None:
    make(session, "canary", b"\x31")
    make(session, "no-canary", b"\x32")
    canary = session.encrypt("canary", b"text", b"")
    session._connection.fingerprint_index.add("canary", KeyFingerprint(None, canary))

    session.make_fingerprint(str(ObjectName(None, b"\x32")))
    session.make_fingerprint(str(ObjectName(None, b"\x31")))

    assert count(session, str(ObjectName(None, b"\x31"))) == 2
    assert count(session, str(ObjectName(None, b"\x32"))) == 1


def test_a_count_without_a_fingerprint_stays_with_its_label(session: HsmSession) -> None:
    make(session, "counted-label", b"\x41")
    session.encrypt("counted-label", b"text", b"")
    session._connection.usage.return_unused()

    session.make_fingerprint(str(ObjectName(None, b"\x41")))

    assert count(session, str(ObjectName(None, b"\x41"))) == count(session, "counted-label") == 2


def test_two_labels_are_counted_apart_until_one_of_the_names_has_an_id(session: HsmSession) -> None:
    """A key that was relabelled with other tools: its CKA_ID is the first name that links the two labels to it."""
    make(session, "first-label", b"\x51")
    session.make_fingerprint("first-label")
    (found,) = session.binding.get_objects({Attribute.LABEL: "first-label"})
    found[Attribute.LABEL] = "second-label"
    session.make_fingerprint("second-label")
    assert (count(session, "first-label"), count(session, "second-label")) == (1, 1)

    session.make_fingerprint(str(ObjectName(None, b"\x51")))

    assert (count(session, "first-label"), count(session, "second-label")) == (2, 1)


def test_a_label_joins_the_first_name_on_record_though_the_id_that_links_them_has_not_joined_it_yet(
    session: HsmSession,
) -> None:
    make(session, "third-label", b"\x52")
    fingerprint, index = session.make_fingerprint("third-label"), session._connection.fingerprint_index
    index.add("name-before", fingerprint)
    index.add(str(ObjectName(None, b"\x52")), fingerprint)
    index.add("third-label", KeyFingerprint(b"new", None))

    session.make_fingerprint("third-label")

    assert session._connection.usage.names.read("third-label") == "name-before"


# First uses in several processes at once


def in_other_process(session: HsmSession) -> closing[HsmSession]:
    """A session that shares the state directory with another one, and nothing else of the record of keys."""
    connection = copy.copy(session._connection)
    connection.usage = UsageBook(connection.usage.directory)
    connection.fingerprint_index = FingerprintIndex(connection.usage.directory)
    return closing(HsmSession(connection))


def meanwhile(session: HsmSession, action: Callable[[], object]) -> None:
    """Do something while the session makes its next canary."""
    maker = session._fingerprint_maker
    encrypt = maker._encrypt

    def encrypt_meanwhile(label: str, plaintext: bytes, aad: bytes) -> Sealed:
        maker._encrypt = encrypt
        sealed = encrypt(label, plaintext, aad)
        action()
        return sealed

    maker._encrypt = encrypt_meanwhile


def use_two_names_at_once(session: HsmSession, object_id: bytes) -> None:
    label = object_id.decode()
    make(session, label, object_id)
    one, another = str(ObjectName(None, object_id)), str(ObjectName(label, object_id))
    with in_other_process(session) as other:
        meanwhile(session, lambda: other.make_fingerprint(another))

        session.make_fingerprint(one)
        session.encrypt(one, b"text", b"")
        other.encrypt(another, b"text", b"")
        other._connection.usage.return_unused()

    assert count(session, one) == count(session, another) == 4


def test_two_names_that_two_processes_use_first_at_the_same_moment_have_one_count(session: HsmSession) -> None:
    use_two_names_at_once(session, b"raced")


def test_so_have_those_of_a_key_that_is_recognised_by_its_canary_alone(
    make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    faulty = make_faulty()
    faulty.tell("attribute fail 90")
    with closing(HsmSession(modules.connect(faulty.hsm, read_pin(faulty.hsm)))) as session:
        assert session.describe_key("demo-key").check_value is None

        use_two_names_at_once(session, b"raced by its canary")


def test_a_name_that_another_process_has_joined_meanwhile_is_counted_there_too(session: HsmSession) -> None:
    make(session, "raced thrice", b"\x61")
    one, another = str(ObjectName(None, b"\x61")), str(ObjectName("raced thrice", b"\x61"))
    with in_other_process(session) as second, in_other_process(session) as third:

        def use_both_names() -> None:
            second.make_fingerprint(another)
            third.make_fingerprint(one)

        meanwhile(session, use_both_names)
        session.make_fingerprint(one)
        for other in (second, third):
            other._connection.usage.return_unused()

    assert count(session, one) == count(session, another) == 3
    assert UsageBook(session._connection.usage.directory).names.read(one) == another
