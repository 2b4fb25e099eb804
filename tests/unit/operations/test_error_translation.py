"""What KMS is told of a failure names its cause."""

from pathlib import Path

import pytest

from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.operations.error_translation import hsm_errors_translated
from xksproxy.spec.errors import InternalException


def test_a_damaged_record_of_fingerprints_is_not_called_a_failure_of_the_hsm(tmp_path: Path) -> None:
    (tmp_path / "keys-dev.json").write_text("{")

    with pytest.raises(InternalException) as raised, hsm_errors_translated():
        FingerprintRecords(tmp_path, "dev").propose("demo-key", KeyFingerprint(b"one", None))

    assert "check the state directory" in raised.value.message
    assert "HSM" not in raised.value.message
