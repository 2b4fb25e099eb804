"""The record of the names of all keys of a machine."""

from pathlib import Path

import pytest

from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.state.state_file import StateUnusable

ONE, OTHER = (KeyFingerprint(bytes([number]) * 3, Sealed(b"i" * 12, b"c" * 16, b"t" * 16)) for number in (1, 2))
NO_CHECK_VALUE = KeyFingerprint(None, ONE.canary)


def test_what_was_recorded_before_a_name_comes_in_that_order(tmp_path: Path) -> None:
    index = FingerprintIndex(tmp_path)
    for name in ("zoe", "adam", "mary"):
        index.add(name, ONE)

    assert list(FingerprintIndex(tmp_path).earlier("mary")) == ["zoe", "adam"]
    assert list(FingerprintIndex(tmp_path).earlier("a name that is not on record")) == ["zoe", "adam", "mary"]


def test_a_name_that_gets_another_key_keeps_both_and_counts_as_recorded_last(tmp_path: Path) -> None:
    index = FingerprintIndex(tmp_path)
    index.add("moved", ONE)
    index.add("stays", OTHER)
    index.add("moved", OTHER)

    assert index.of("moved") == (ONE, OTHER)
    assert index.earlier("moved") == {"stays": (OTHER,)}


@pytest.mark.parametrize("fingerprint", [ONE, NO_CHECK_VALUE])
def test_the_same_fingerprint_is_recorded_once(tmp_path: Path, fingerprint: KeyFingerprint) -> None:
    index = FingerprintIndex(tmp_path)
    for _ in range(2):
        index.add("name", fingerprint)

    assert index.of("name") == (fingerprint,)


def test_the_records_that_an_earlier_release_made_for_each_key_store_are_taken_over_once(tmp_path: Path) -> None:
    FingerprintRecords(tmp_path, "a").propose("in both", ONE)
    FingerprintRecords(tmp_path, "b").propose("in both", OTHER)
    FingerprintRecords(tmp_path, "b").propose("in one", OTHER)
    index = FingerprintIndex(tmp_path)
    before = index.earlier("new")

    index.add("new", ONE)
    for path in tmp_path.glob("keys-*.json"):
        path.write_text("damaged: nobody reads it")

    assert before == index.earlier("new") == {"in both": (ONE, OTHER), "in one": (OTHER,)}
    assert FingerprintIndex(tmp_path).of("in both") == (ONE, OTHER)


def test_a_record_of_an_earlier_release_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "keys-a.json").write_text("damaged")

    for use in (lambda index: index.of("name"), lambda index: index.add("name", ONE)):
        with pytest.raises(StateUnusable, match="keys-a"):
            use(FingerprintIndex(tmp_path))
