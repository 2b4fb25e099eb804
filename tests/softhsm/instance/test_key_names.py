"""Keys that are named by their CKA_ID, and what is on record of them, on a real token."""

import pytest

from xksproxy.config.object_names import ObjectName
from xksproxy.hsm.errors import KeyAmbiguous, KeyMissing
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.hsm.pkcs11.key_objects import generate_aes_key

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
    on_record = {names[first]: session.make_fingerprint(names[first], {})}
    session.encrypt(names[first], b"text", b"")
    before = count(session, names[first])

    session.make_fingerprint(names[then], on_record)
    session.encrypt(names[then], b"text", b"")

    assert count(session, names[then]) == count(session, names[first]) == before + 2


def test_a_count_is_found_under_the_label_though_another_key_has_that_label_now(session: HsmSession) -> None:
    make(session, "common", b"\x21")
    on_record = {"common": session.make_fingerprint("common", {})}
    make(session, "common", b"\x22")
    mine, others = (str(ObjectName(None, object_id)) for object_id in (b"\x21", b"\x22"))

    session.make_fingerprint(mine, on_record)
    session.make_fingerprint(others, on_record)

    assert count(session, mine) == count(session, "common") == 2
    assert count(session, others) == 1


def test_a_key_whose_check_value_is_not_on_record_is_recognised_by_its_canary(session: HsmSession) -> None:
    make(session, "canary", b"\x31")
    make(session, "no-canary", b"\x32")
    made = session.make_fingerprint("canary", {})
    on_record = {"canary": KeyFingerprint(None, made.canary)}

    session.make_fingerprint(str(ObjectName(None, b"\x32")), on_record)
    session.make_fingerprint(str(ObjectName(None, b"\x31")), on_record)

    assert count(session, str(ObjectName(None, b"\x31"))) == 2
    assert count(session, str(ObjectName(None, b"\x32"))) == 1


def test_a_count_without_a_fingerprint_stays_with_its_label(session: HsmSession) -> None:
    make(session, "old", b"\x41")
    session.encrypt("old", b"text", b"")
    session._connection.usage.return_unused()

    session.make_fingerprint(str(ObjectName(None, b"\x41")), {})

    assert count(session, str(ObjectName(None, b"\x41"))) == count(session, "old") == 2
