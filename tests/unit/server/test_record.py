"""The audit line of a request: every field in its place, and what is not known left out."""

import json
from pathlib import Path

import pytest

from xksproxy.config.model import Audit
from xksproxy.deadline import Deadline
from xksproxy.request_stats import RequestStats
from xksproxy.server.record import Recorder, RequestRecord
from xksproxy.spec.errors import InternalException, InvalidUriPathException
from xksproxy.spec.messages import ReceivedMetadata
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.audit import AuditLog
from xksproxy.telemetry.lines import json_line
from xksproxy.telemetry.metrics import Metrics


def test_a_full_line_has_all_fields_in_their_order() -> None:
    account = RequestStats(0.0012345, 0.0045678, ["one", "two"], 3, {"decision": "allow"})
    record = RequestRecord(
        *("192.0.2.1", 0.0, "kms.example", "store", Operation.DECRYPT, "key", "ID", "eu-west-1"),
        ReceivedMetadata({"kmsOperation": "Decrypt"}, 2),
        account,
        500,
    )
    record.refuse(InternalException("a message", detail="a reason"))
    record.vpc_endpoint_id = "vpce-1"

    assert json_line(record.line(0.0123456)) == (
        '{"peer":"192.0.2.1","vpc_endpoint_id":"vpce-1","tls_client_name":"kms.example","keystore":"store","operation":"Decrypt","key_id":"key",'
        '"key_version":3,"access_key_id":"ID","region":"eu-west-1","request_metadata":{"kmsOperation":"Decrypt"},'
        '"request_metadata_left_out":2,'
        '"hsms":["one","two"],"status":500,"error":"InternalException","error_message":"a message",'
        '"reason":"a reason","authorization":{"decision":"allow"},"ms":12.35,"queue_ms":1.23,"hsm_ms":4.57}'
    )


def test_of_a_request_that_came_nowhere_only_what_is_known_is_told() -> None:
    record = RequestRecord("192.0.2.1", 0.0)

    assert json_line(record.line(0.001)) == '{"peer":"192.0.2.1","status":200,"ms":1.0}'


@pytest.mark.parametrize("length", [2048, 2049])
def test_a_key_id_is_cut_where_it_would_fill_the_log(length: int) -> None:
    record = RequestRecord("a", 0.0, key_id="k" * length)

    assert record.line(0.0)["key_id"] == "k" * 2048


async def test_beyond_the_limit_strangers_share_lines_and_signed_requests_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "log"
    recorder = Recorder(AuditLog(Audit(file=str(path)), None), Metrics(tmp_path))
    for number in range(500):
        stranger = RequestRecord("192.0.2.1", 0.0, keystore="store")
        stranger.refuse(InvalidUriPathException("no path"))
        await recorder.write_line(stranger, Deadline(0))
        signed_request = RequestRecord("192.0.2.9", 0.0, access_key_id=f"ID{number}", region="eu-west-1")
        await recorder.write_line(signed_request, Deadline(0))
    recorder.close()

    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    signed = [line["access_key_id"] for line in lines if "access_key_id" in line]
    alone = [line for line in lines if line["message"] == "request" and "access_key_id" not in line]
    sums = [line["count"] for line in lines if line["message"] == "requests summed up"]
    assert signed == [f"ID{number}" for number in range(500)]
    assert len(alone) + sum(sums) == 500
    assert sums
